package slack_test

import (
	"testing"

	"parley/internal/problem"
	"parley/internal/slack"
)

// FuzzOpen: whatever a file of the export holds, it is read or refused with its
// name, and what was read keeps the promises of Export.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`[{"user":"U1","text":"x","ts":"1600080000.000000"}]`))
	f.Add([]byte(`[{"user":"U2","text":"x","ts":"1600080000.000000","thread_ts":"1600000001.000100"},`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, day []byte) {
		files := good()
		files["general/2020-09-16.json"] = string(day)
		e, err := slack.Open(write(t, files), now)
		if err != nil {
			if !problem.Is(err, problem.Invalid) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		for i, m := range e.Channels[0].Messages {
			if i > 0 && m.TS <= e.Channels[0].Messages[i-1].TS || m.Root >= i || m.Text == "" {
				t.Fatalf("message %d is %+v", i, m)
			}
		}
	})
}
