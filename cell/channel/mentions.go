package channel

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"parley/cell/change"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

const (
	// mentionsMax bounds the names that one message may have looked up.
	mentionsMax = 100
	// bracketMax bounds <@ … >: an id and a name.
	bracketMax = 128
)

// mentioned is what a text may mean by its @s; the directory says which are users.
type mentioned struct {
	names []string // ids and names to look up, each once
	all   bool
}

// everyone are the words that mean all of the channel.
func everyone(word string) bool { return word == "channel" || word == "here" || word == "everyone" }

// findMentions reads <@USERID>, <!channel> and @name at a word boundary.
func findMentions(text string) mentioned {
	var m mentioned
	for i := 0; i < len(text); {
		switch rest := text[i:]; {
		case strings.HasPrefix(rest, "<@"), strings.HasPrefix(rest, "<!"):
			i += m.bracketed(rest)
		case rest[0] == '@' && boundary(text[:i]):
			i += m.named(rest)
		default:
			i++
		}
	}
	return m
}

func (m *mentioned) add(name string) {
	if name != "" && len(m.names) < mentionsMax && !slices.Contains(m.names, name) {
		m.names = append(m.names, name)
	}
}

// bracketed reads <@USERID>, <@USERID|name> or <!channel> and returns its length.
func (m *mentioned) bracketed(s string) int {
	end := strings.IndexByte(s[:min(len(s), bracketMax)], '>')
	if end < 0 {
		return len("<@")
	}
	word, _, _ := strings.Cut(s[2:end], "|")
	if s[1] == '@' {
		m.add(word)
	} else if everyone(word) {
		m.all = true
	}
	return end + 1
}

// named reads @name and returns its length. A name that ends in a full stop may
// be one at the end of a sentence: both are asked for, in the text's spelling
// and in lower case.
func (m *mentioned) named(s string) int {
	n := nameLen(s[1:])
	for name := s[1 : 1+n]; name != ""; name = name[:len(name)-1] {
		if everyone(name) {
			m.all = true
		} else {
			m.add(name)
			m.add(strings.ToLower(name))
		}
		if !strings.ContainsRune("._-", rune(name[len(name)-1])) {
			break
		}
	}
	return 1 + n
}

// boundary reports whether a mention may begin behind the text: not within a
// word, as in an e-mail address.
func boundary(before string) bool {
	r, n := utf8.DecodeLastRuneInString(before)
	return n == 0 || (!unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '@' && r != '.' && r != '-')
}

func nameLen(s string) int {
	n := 0
	for i, r := range s {
		if n >= chat.NameRunesMax || (!unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '.' && r != '_' && r != '-') {
			return i
		}
		n++
	}
	return len(s)
}

// resolved is who was found, sorted, with change.MentionAll first.
func (m *mentioned) resolved(found map[string]topology.UserID) []topology.UserID {
	var us []topology.UserID
	for _, u := range found {
		us = append(us, u)
	}
	slices.Sort(us)
	us = slices.Compact(us)
	if m.all {
		us = slices.Insert(us, 0, change.MentionAll)
	}
	return us
}
