package chat

import (
	"strings"
	"unicode/utf8"

	"parley/internal/problem"
)

// CheckChannelName allows what Slack allows, and the leading # of IRC's channels.
func CheckChannelName(name string) error {
	if n := utf8.RuneCountInString(name); n < 1 || n > NameRunesMax {
		return problem.Field("name", "must have 1 to %d characters, has %d", NameRunesMax, n)
	}
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_', r == '.', r == '+', r == '#':
		case r > 127 && r != utf8.RuneError: // letters of other scripts
		default:
			return problem.Field("name", "may hold lower-case letters, digits and - _ . + #, not %q", r)
		}
	}
	return nil
}

// CheckTopic bounds a channel's topic.
func CheckTopic(topic string) error {
	if n := utf8.RuneCountInString(topic); n > TopicRunesMax {
		return problem.Field("topic", "must have at most %d characters, has %d", TopicRunesMax, n)
	}
	return noNUL("topic", topic)
}

// Check says whether an admin may add the person.
func (u NewUser) Check() error {
	if n := utf8.RuneCountInString(u.Name); n < 1 || n > NameRunesMax || strings.TrimSpace(u.Name) != u.Name {
		return problem.Field("name", "must have 1 to %d characters and no spaces around", NameRunesMax)
	}
	if utf8.RuneCountInString(u.DisplayName) > NameRunesMax {
		return problem.Field("display_name", "must have at most %d characters", NameRunesMax)
	}
	if err := noNUL("name", u.Name); err != nil {
		return err
	}
	return noNUL("display_name", u.DisplayName)
}

// noNUL refuses what not every engine can keep.
func noNUL(field, s string) error {
	if strings.Contains(s, "\x00") {
		return problem.Field(field, "must not have NUL (\\u0000)")
	}
	return nil
}
