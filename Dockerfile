# A static binary on distroless, not root, with nothing but /data to write to:
#
#   docker build -t breakwater .
#   docker run --read-only --cap-drop ALL -v breakwater:/data -p 8443:8443 breakwater
#
# The owner's first login is in the volume: docker cp CONTAINER:/data/owner.json .
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /out/breakwater . && install -d -m 0700 /out/data

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/breakwater /breakwater
COPY --from=build --chown=65532:65532 /out/data /data
VOLUME /data
EXPOSE 8443
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["/breakwater"]
CMD ["serve", "--data", "/data", "--listen", "0.0.0.0:8443"]
