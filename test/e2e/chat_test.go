//go:build e2e

package e2e_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"

	"parley/internal/topology"
)

const (
	chatWidth  = 100
	chatHeight = 24
)

// talk is two people of one workspace before their screens, each in a region.
type talk struct {
	fay, gus *terminal
	said     []string // in #general, in order
}

func openTalk(t *testing.T, d *dev) *talk {
	t.Helper()
	open := func(user, region string) *terminal {
		return sit(t, d.command(t.Context(), t, "chat", "--workspace", "globex", "--user", user, "--region", region, "--channel", "general"), chatWidth, chatHeight)
	}
	return &talk{fay: open("fay", "eu"), gus: open("gus", "us")}
}

// says has one of them write into #general, and both see it.
func (k *talk) says(t *testing.T, who *terminal, text string) {
	t.Helper()
	who.enters(t, text)
	k.said = append(k.said, text)
	k.fay.sees(t, text)
	k.gus.sees(t, text)
}

// checkChat does what people do in a chat, in two regions at once.
func checkChat(t *testing.T, d *dev, k *talk) {
	t.Helper()
	k.fay.sees(t, "#general ·", "you are fay", "#random")
	if !k.fay.alone() {
		t.Error("the chat writes over what was on the screen before it")
	}
	k.gus.sees(t, "#general ·", "you are gus", "#random")
	k.says(t, k.fay, "is the build green?")
	k.gus.sees(t, "fay is the build green?")
	k.checkThread(t)
	k.checkTyping(t)
	k.checkUnread(t)
	k.checkScrollBack(t, d)
	k.checkResize(t)
}

// checkThread: an answer in a thread is seen in the channel, and opens from there.
func (k *talk) checkThread(t *testing.T) {
	t.Helper()
	k.gus.types(t, upKey)
	k.gus.sees(t, "▌")
	k.gus.types(t, enterKey)
	k.gus.sees(t, "thread of fay: is the build green?")
	k.gus.enters(t, "since noon")
	k.gus.sees(t, "gus since noon", "[1 reply]")
	k.fay.sees(t, "[1 reply]", "↳ gus: since noon")
	k.fay.types(t, upKey, enterKey)
	k.fay.sees(t, "thread of fay: is the build green?", "gus since noon")
	for _, s := range []*terminal{k.fay, k.gus} {
		s.types(t, escKey)
		s.misses(t, "thread of")
	}
	k.fay.types(t, escKey)
	k.fay.misses(t, "▌")
}

// checkTyping: who types is told of, and not for long.
func (k *talk) checkTyping(t *testing.T) {
	t.Helper()
	looks := 0
	k.fay.until(t, "gus is typing", func(screen string) bool {
		if looks%20 == 0 { // typing is told now and then, so one goes on
			k.gus.types(t, "hm ")
		}
		looks++
		return strings.Contains(screen, "gus is typing")
	})
	k.gus.types(t, ctrlU)
	k.gus.misses(t, "hm")
	k.fay.misses(t, "gus is typing")
}

// checkUnread: what is said while one looks elsewhere is counted until it is seen.
func (k *talk) checkUnread(t *testing.T) {
	t.Helper()
	k.fay.enters(t, "/join random")
	k.fay.sees(t, "#random ·")
	k.gus.enters(t, "lunch?")
	k.fay.until(t, "#general 1", listed("#general", "1"))
	k.gus.enters(t, "@fay lunch!")
	k.fay.until(t, "#general 2 @1", listed("#general", "2 @1"))
	k.said = append(k.said, "gus lunch?", "@fay lunch!")
	k.fay.types(t, ctrlP)
	k.fay.sees(t, "#general ·", "gus lunch?", "@fay lunch!")
	k.fay.until(t, "nothing unread", listed("#general", ""))
}

// listed says that the list of channels has a row with a count.
func listed(name, count string) func(string) bool {
	row := regexp.MustCompile(`(?m)^ ` + name + `\s+` + regexp.QuoteMeta(count) + `\s*│`)
	return func(screen string) bool { return row.MatchString(screen) }
}

// checkScrollBack goes back some pages in a channel that was imported.
func (k *talk) checkScrollBack(t *testing.T, d *dev) {
	t.Helper()
	const back = 180
	k.fay.enters(t, "/join history-0")
	k.fay.sees(t, "#history-0 ·")
	all := history(t, d.as(t, 1, 0, 0), channelNamed(t, d, "history-0"))
	old, _, _ := strings.Cut(strings.TrimSpace(all[len(all)-back].Text), " ünï")
	// A page is gone to when the last one stands still: what scrolls by faster than one
	// looks is not seen.
	const stands, late = 3, 50
	var last, left string
	looks := 0
	k.fay.until(t, old, func(screen string) bool {
		if strings.Contains(screen, old) {
			return true
		}
		if looks++; screen != last {
			last, looks = screen, 0
		}
		if !strings.Contains(screen, "loading") && (looks >= stands && screen != left || looks >= late) {
			left, looks = screen, 0
			k.fay.types(t, pgUpKey)
		}
		return false
	})
	k.fay.sees(t, "scrolled back")
	k.fay.enters(t, "/join general")
	k.fay.sees(t, "#general ·", "@fay lunch!")
}

func channelNamed(t *testing.T, d *dev, name string) topology.ChannelID {
	t.Helper()
	for after := ""; ; {
		page, err := d.as(t, 1, 0, 0).Channels(step(t), after, 200)
		if err != nil {
			t.Fatal(err)
		}
		for _, ch := range page.Channels {
			if ch.Name == name {
				return ch.ID
			}
		}
		if after = page.Next; after == "" {
			t.Fatalf("there is no channel %s", name)
		}
	}
}

// checkResize makes a window small, large, and as it was.
func (k *talk) checkResize(t *testing.T) {
	t.Helper()
	for _, size := range []struct{ width, height int }{{50, 12}, {160, 50}, {chatWidth, chatHeight}} {
		if err := k.fay.resize(size.width, size.height); err != nil {
			t.Fatal(err)
		}
		k.fay.until(t, fmt.Sprintf("a whole screen of %d × %d", size.width, size.height), func(screen string) bool {
			rows := strings.Split(screen, "\n")
			wide := slices.ContainsFunc(rows, func(r string) bool { return ansi.StringWidth(r) > size.width })
			return len(rows) == size.height && !wide && strings.Contains(rows[0], "#general ·") &&
				strings.Contains(rows[size.height-1], "Enter send") && strings.Count(screen, "@fay lunch!") == 1 &&
				strings.Contains(screen, "│") == (size.width >= 80)
		})
	}
}

// checkAway: while there is no Parley, both say so and keep what is typed.
func (k *talk) checkAway(t *testing.T) {
	t.Helper()
	k.fay.sees(t, "not connected")
	k.gus.sees(t, "not connected")
	k.fay.enters(t, "said while all was down")
	k.said = append(k.said, "said while all was down")
	k.fay.sees(t, "sending: said while all was down")
}

// checkBack: both connect again by themselves, and see everything, once, in the
// same order.
func (k *talk) checkBack(t *testing.T) {
	t.Helper()
	k.gus.sees(t, "fay said while all was down")
	for _, s := range []*terminal{k.fay, k.gus} {
		s.misses(t, "not connected")
		s.misses(t, "sending")
	}
	k.says(t, k.gus, "welcome back")
	k.says(t, k.fay, "nothing lost?")
	for _, s := range []*terminal{k.fay, k.gus} {
		s.until(t, "all that was said, once, in order", func(screen string) bool {
			for _, text := range k.said {
				if strings.Count(screen, text) != 1 {
					return false
				}
			}
			return slices.IsSortedFunc(k.said, func(a, b string) int { return strings.Index(screen, a) - strings.Index(screen, b) })
		})
	}
}

// checkLeave leaves in both ways that there are.
func (k *talk) checkLeave(t *testing.T) {
	t.Helper()
	k.fay.enters(t, "/quit")
	k.fay.left(t)
	k.gus.types(t, ctrlC)
	k.gus.left(t)
}
