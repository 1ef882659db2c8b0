-- +goose Up
-- The holder of a registry is its name, which is unique in the server: whom a host name means is one look-up in resource_holder.
UPDATE resource SET holder = substr(id, instr(id, '/providers/microsoft.containerregistry/registries/') + 50) WHERE type = 'microsoft.containerregistry/registries';
