package site

import "testing"

func TestWaiting_SumsUpTheLags(t *testing.T) {
	page := `# HELP parley_worker_lag_events Events that wait to be handled.
# TYPE parley_worker_lag_events gauge
parley_worker_lag_events{group="mentions"} 3
parley_worker_lag_events{group="search"} 1.2e+03
parley_channel_lag_changes{part="eu-1-cs-1"} 7
parley_channel_unemitted_changes{part="eu-1-cs-1"} 0
parley_channel_changes_total{part="eu-1-cs-1"} 99
`
	if sum, told, err := waiting(page); err != nil || sum != 1210 || told != 4 {
		t.Errorf("%v waiting, told by %d, %v; want 1210 by 4", sum, told, err)
	}
	if _, _, err := waiting(`parley_worker_lag_events{group="search"} many`); err == nil {
		t.Error("what is no number is taken for one")
	}
}
