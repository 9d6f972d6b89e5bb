package controlplane

import (
	"encoding/json"

	"parley/controlplane/state"
)

// objectID is the id of what an entry is about: every body has it as id or kid.
func objectID(e state.Entry) string {
	var body struct {
		ID  string `json:"id"`
		KID string `json:"kid"`
	}
	if json.Unmarshal(e.Body, &body) != nil {
		return ""
	}
	if body.ID == "" {
		return body.KID
	}
	return body.ID
}
