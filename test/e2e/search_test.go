//go:build e2e

package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/wire/chat"
)

// findableMax is how long after its post a message may be missing from search.
const findableMax = 2 * time.Second

// checkSearch posts at one edge and finds at the other, in time.
func checkSearch(t *testing.T, d *dev) {
	t.Helper()
	ctx, general := step(t), d.info.Workspaces[0].Channels[0].ID
	poster, finder := d.as(t, 0, 0, 0), d.as(t, 0, 1, 1)
	for i := range 10 {
		word := fmt.Sprintf("nadel%dx", i)
		if _, err := poster.Post(ctx, general, chat.PostRequest{Text: "Ein " + strings.ToUpper(word) + " im Heuhaufen"}); err != nil {
			t.Fatal(err)
		}
		posted := time.Now()
		for {
			page, err := finder.Search(ctx, client.SearchQuery{Text: word + " heuhaufen in:general"})
			if err != nil {
				t.Fatal(err)
			}
			if len(page.Messages) == 1 && page.Messages[0].ChannelID == general && len(page.Messages[0].Highlights) == 2 {
				break
			}
			if since := time.Since(posted); since > findableMax {
				t.Fatalf("%s is not found after %v: %+v", word, since, page)
			}
		}
		t.Logf("found after %v", time.Since(posted))
	}
	other := d.as(t, 1, 0, 0)
	if page, err := other.Search(ctx, client.SearchQuery{Text: "heuhaufen"}); err != nil || len(page.Messages) != 0 {
		t.Errorf("another workspace finds %+v, %v", page, err)
	}
	if _, err := finder.Search(ctx, client.SearchQuery{Text: `"open`}); !problem.Is(err, problem.Invalid) {
		t.Errorf("a bad query gave %v", err)
	}
	var page chat.SearchPage
	d.must(t, &page, "search", "-W", "acme", "-o", "json", "heuhaufen", "--limit", "3")
	if len(page.Messages) != 3 || !page.HasMore {
		t.Errorf("the command finds %+v", page)
	}
	if out := d.must(t, nil, "search", "-W", "acme", "nadel3x"); !strings.Contains(out, "[NADEL3X]") || !strings.Contains(out, "#general") {
		t.Errorf("the command prints %q", out)
	}
	var done chat.RebuildResponse
	d.must(t, &done, "cell", "search", "rebuild", "--workspace", "acme", "-o", "json")
	if !done.Done || done.Messages == 0 {
		t.Errorf("the rebuild says %+v", done)
	}
	all, err := finder.Search(ctx, client.SearchQuery{Text: "heuhaufen", Limit: 50})
	if err != nil || len(all.Messages) != 10 || !slices.IsSortedFunc(all.Messages, func(a, b chat.FoundMessage) int { return int(b.TS - a.TS) }) {
		t.Errorf("after it %d are found, %v", len(all.Messages), err)
	}
}
