package swarm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"parley/internal/slack"
)

// Line is one message that somebody is to post.
type Line struct {
	At      time.Duration // after the start of the script, at speed 1
	Author  int           // person, modulo how many there are
	Channel int           // channel, modulo how many there are
	Text    string
	Root    int // the line replied to; -1 = none
}

// Script is what people say, in order of time.
type Script []Line

// textMax bounds a line's text in runes: what a seal adds must fit, too.
const textMax = 2000

// gapMax bounds the silences of a script, at speed 1: a community sleeps, a test
// need not.
const gapMax = 30 * time.Second

// Replay is the conversations of an export's channels, interleaved by how long
// after its channel's beginning each message came, with threads.
func Replay(e *slack.Export) Script {
	type said struct {
		channel, index int
		at             time.Duration
	}
	authors := map[string]int{}
	for i, u := range e.Users {
		authors[u.ID] = i
	}
	var all []said
	for c, ch := range e.Channels {
		at := time.Duration(0)
		for i, m := range ch.Messages {
			if i > 0 {
				at += min(m.TS.Time().Sub(ch.Messages[i-1].TS.Time()), gapMax)
			}
			all = append(all, said{c, i, at})
		}
	}
	slices.SortStableFunc(all, func(a, b said) int { return int(a.at - b.at) })
	lines := make([]map[int]int, len(e.Channels)) // line of each message, by channel
	out := make(Script, 0, len(all))
	for _, s := range all {
		m := e.Channels[s.channel].Messages[s.index]
		if lines[s.channel] == nil {
			lines[s.channel] = map[int]int{}
		}
		root := -1
		if m.Root >= 0 {
			root = lines[s.channel][m.Root]
		}
		lines[s.channel][s.index] = len(out)
		out = append(out, Line{At: s.at, Author: authors[m.User], Channel: s.channel, Text: cut(m.Text), Root: root})
	}
	return out
}

func cut(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return "…"
	}
	if r := []rune(text); len(r) > textMax {
		return string(r[:textMax])
	}
	return text
}

// Chatter is a script of n lines at a pace, a fifth of them replies, from a seed.
func Chatter(seed uint64, n int, perS float64) Script {
	rnd := rand.New(rand.NewPCG(seed, 1))
	out := make(Script, 0, n)
	at := time.Duration(0)
	for i := range n {
		at += time.Duration(rnd.ExpFloat64() / perS * float64(time.Second))
		l := Line{At: at, Author: rnd.IntN(1 << 20), Channel: rnd.IntN(1 << 20), Root: -1, Text: fmt.Sprintf("line %d of seed %d", i, seed)}
		if i > 20 && rnd.IntN(5) == 0 {
			l.Root = i - 1 - rnd.IntN(20)
			l.Channel = out[l.Root].Channel
			if r := out[l.Root].Root; r >= 0 {
				l.Root = r
			}
		}
		out = append(out, l)
	}
	return out
}
