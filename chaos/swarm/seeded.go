package swarm

import (
	"encoding/json"
	"slices"

	"parley/internal/problem"
	"parley/internal/topology"
)

// Seeded is what `parley seed -o json` says: people with tokens, and channels with
// their members.
type Seeded struct {
	Workspace topology.WorkspaceID `json:"workspace"`
	Users     []struct {
		ID    topology.UserID `json:"id"`
		Name  string          `json:"name"`
		Token string          `json:"token"`
	} `json:"users"`
	Channels []struct {
		ID      topology.ChannelID `json:"id"`
		Members []topology.UserID  `json:"members"`
	} `json:"channels"`
}

// ReadSeeded reads it.
func ReadSeeded(b []byte) (s Seeded, err error) {
	if err := json.Unmarshal(b, &s); err != nil || len(s.Users) == 0 {
		return s, problem.New(problem.Invalid, "that is not what `parley seed -o json` says")
	}
	return s, nil
}

// People are those of them who are in a channel, each with the edges that edges
// gives the i-th. Names carry the role, so that they are unique in a run.
func (s Seeded) People(role string, edges func(i int) []string) (out []Person) {
	for i, u := range s.Users {
		p := Person{Name: u.Name + "@" + role, Role: role, Workspace: s.Workspace, User: u.ID, Token: u.Token, Edges: edges(i)}
		for _, ch := range s.Channels {
			if slices.Contains(ch.Members, u.ID) {
				p.Channels = append(p.Channels, ch.ID)
			}
		}
		if len(p.Channels) > 0 {
			out = append(out, p)
		}
	}
	return out
}
