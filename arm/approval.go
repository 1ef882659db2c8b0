package arm

import (
	"context"
	"encoding/json"
	"time"

	"breakwater/access"
	"breakwater/approval"
	"breakwater/ref"
	"breakwater/resource"
)

// A partyView is somebody as callers see it: how it came in is not theirs to know.
type partyView struct {
	ID   string `json:"principalId"`
	Type string `json:"type"`
	Name string `json:"name,omitempty"`
}

func partyOf(p approval.Party) *partyView {
	if p.ID == "" {
		return nil
	}
	return &partyView{p.ID, says(string(p.Kind)), p.Name}
}

type approvalView struct {
	Action    access.Action  `json:"action"`
	Scope     ref.Scope      `json:"scope"`
	Registry  ref.ID         `json:"registryId"`
	UID       string         `json:"registryUid"`
	Exact     string         `json:"exact,omitempty"`
	Status    approval.State `json:"status"`
	Requester *partyView     `json:"requester"`
	Approver  *partyView     `json:"approver,omitempty"`
	Note      string         `json:"note,omitempty"`
	Asked     time.Time      `json:"requestedAt"`
	Decided   time.Time      `json:"decidedAt,omitzero"`
	Done      time.Time      `json:"usedAt,omitzero"`
	Until     time.Time      `json:"until"`
}

// Approvals is the kind of requests for somebody else's approval (DP-6). Nobody writes
// one: it comes of an act that was refused.
func Approvals(s *approval.Store) []Kind {
	shown := func(r *approval.Request) (resource.Resource, approvalView) {
		a := r.Act
		return resource.Resource{ID: r.ID}, approvalView{
			Action: a.Action, Scope: a.Scope, Registry: a.On, UID: a.UID, Exact: a.Exact, Status: r.At(time.Now()),
			Requester: partyOf(r.Requester), Approver: partyOf(r.Approver), Note: r.Note,
			Asked: r.Asked, Decided: r.Decided, Done: r.Done, Until: r.Until,
		}
	}
	see := func(r *approval.Request, err error) (any, error) {
		if err != nil {
			return nil, err
		}
		doc, v := shown(r)
		doc.Properties, err = json.Marshal(v)
		return viewed(&Kind{Type: approval.Type}, doc), err
	}
	answer := func(name string, right access.Action, state approval.State) Action {
		return Action{Name: name, Right: right, Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
			var said struct{ Note string }
			if err := understand(body, &said); err != nil {
				return nil, err
			}
			return see(s.Answer(ctx, g, id, state, said.Note))
		}}
	}
	return []Kind{row[*approval.Request, approvalView]{
		Kind: Kind{Type: approval.Type, Place: extension, Read: approval.Read, Actions: []Action{
			answer("approve", approval.Approve, approval.Approved), answer("reject", approval.Reject, approval.Rejected),
			{Name: "withdraw", Right: approval.Withdraw, Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
				if err := understand(body, &struct{}{}); err != nil {
					return nil, err
				}
				return see(s.TakeBack(ctx, g, id))
			}},
		}},
		shown: shown,
		get:   s.Get,
		list: func(ctx context.Context, g access.Grant, q Query) ([]*approval.Request, error) {
			return s.List(ctx, g, q.Under, q.After, q.Limit)
		},
	}.kind()}
}
