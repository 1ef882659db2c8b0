package access

import "breakwater/fault"

// A Condition is what must be true beside an assignment, in Azure's language for
// conditions (version 2.0).
type Condition struct{ text string }

// ParseCondition reads a condition. The fault says where it cannot be read.
func ParseCondition(text string) (*Condition, error) {
	return nil, fault.New(fault.BadRequest, "not yet")
}

// String is the condition as it was written.
func (c *Condition) String() string { return c.text }
