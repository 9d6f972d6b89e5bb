package slack

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

type userJSON struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Profile struct {
		RealName    string `json:"real_name"`
		DisplayName string `json:"display_name"`
	} `json:"profile"`
}

// shown is how the user is shown, before it is cut to what Parley takes.
func (u userJSON) shown() string {
	for _, s := range []string{u.Profile.DisplayName, u.Profile.RealName} {
		if s = strings.TrimSpace(s); s != "" {
			return s
		}
	}
	return u.Name
}

type channelJSON struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Created int64    `json:"created"`
	Members []string `json:"members"`
	Topic   struct {
		Value string `json:"value"`
	} `json:"topic"`
	Purpose struct {
		Value string `json:"value"`
	} `json:"purpose"`
}

func (c channelJSON) topic() string {
	if c.Topic.Value != "" {
		return c.Topic.Value
	}
	return c.Purpose.Value
}

type messageJSON struct {
	Type     string `json:"type"`
	Subtype  string `json:"subtype"`
	User     string `json:"user"`
	BotID    string `json:"bot_id"`
	Username string `json:"username"`
	Text     string `json:"text"`
	TS       string `json:"ts"`
	ThreadTS string `json:"thread_ts"`
	Files    []struct {
		Name string `json:"name"`
	} `json:"files"`
	Attachments []struct {
		Fallback string `json:"fallback"`
	} `json:"attachments"`
}

// body is the text, or what stands for it: names of files, fallbacks of cards.
func (m messageJSON) body() string {
	if m.Text != "" {
		return m.Text
	}
	var parts []string
	for _, f := range m.Files {
		if f.Name != "" {
			parts = append(parts, f.Name)
		}
	}
	for _, a := range m.Attachments {
		if a.Fallback != "" {
			parts = append(parts, a.Fallback)
		}
	}
	return strings.Join(parts, "\n")
}

// each decodes a file that holds one JSON array, and gives every element with
// the line it begins on.
func each[T any](r *reader, file string, do func(line int, v T) error) error {
	data, err := r.load(file)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	lines := lineCounter{data: data, line: 1}
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return fault(file, 1, "must be a JSON array")
	}
	for d.More() {
		start := lines.skip(d.InputOffset())
		line := lines.at(start)
		var v T
		if err := d.Decode(&v); err != nil {
			return fault(file, lines.at(start+syntaxOffset(data[start:])), "%s", reason(err))
		}
		if err := do(line, v); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return fault(file, lines.at(d.InputOffset()), "the array does not end: %s", reason(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fault(file, lines.at(d.InputOffset()), "something follows the array")
	}
	return nil
}

// syntaxOffset is where the first value of data breaks off; 0 if it doesn't. A
// decoder further on counts its offsets from elsewhere, so this looks afresh.
func syntaxOffset(data []byte) int64 {
	var syntax *json.SyntaxError
	var v json.RawMessage
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&v); errors.As(err, &syntax) {
		return syntax.Offset
	}
	return 0
}

func reason(err error) string {
	var typed *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "the file ends in the middle"
	case errors.As(err, &typed):
		return typed.Field + ": must be a " + typed.Type.String() + ", not a " + typed.Value
	}
	return err.Error()
}

// lineCounter turns rising offsets into lines, reading the data once.
type lineCounter struct {
	data []byte
	seen int64
	line int
}

func (l *lineCounter) at(offset int64) int {
	offset = min(offset, int64(len(l.data)))
	if offset > l.seen {
		l.line += bytes.Count(l.data[l.seen:offset], []byte{'\n'})
		l.seen = offset
	}
	return l.line
}

// skip is the offset of the next value: beyond commas and white space.
func (l *lineCounter) skip(offset int64) int64 {
	for offset < int64(len(l.data)) && strings.IndexByte(", \t\r\n", l.data[offset]) >= 0 {
		offset++
	}
	return offset
}
