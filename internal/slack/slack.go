// Package slack reads a Slack workspace export: a ZIP file with users.json,
// channels.json (and groups.json for private channels), and one JSON file per
// channel and day. Everything is checked before anything is given out, and every
// error names file and line.
package slack

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"parley/internal/problem"
	"parley/internal/wire/chat"
)

// User is a person or a bot.
type User struct {
	ID, Name, DisplayName string
}

// Channel is a channel with its messages, rising in time.
type Channel struct {
	ID, Name, Topic string
	Private         bool
	Created         chat.Timestamp // before its first message
	Members         []string       // ids of users
	Messages        []Message
}

// Message is a message or a reply.
type Message struct {
	User string // id
	TS   chat.Timestamp
	Text string
	Root int // index in Messages of the message replied to; -1 = top-level
}

// Export is a whole export in memory.
type Export struct {
	Digest   string // of the file, SHA-256 in hex
	Users    []User
	Channels []Channel
	// Skipped counts what an export holds beside conversations, by what it is.
	Skipped map[string]int
}

// Limits of an export. An export beyond them is imported in parts, which Slack
// makes by dates.
const (
	filesMax     = 1_000_000
	fileBytesMax = 256 << 20
	messagesMax  = 50_000_000
)

// Fault is something wrong in a file of the export.
type Fault struct {
	File string
	Line int // 0 = the whole file
	What string
}

// Error names file and line.
func (f *Fault) Error() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: %s", f.File, f.What)
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.What)
}

func fault(file string, line int, format string, args ...any) error {
	f := &Fault{File: file, Line: line, What: fmt.Sprintf(format, args...)}
	return problem.Wrap(f, problem.Invalid, "%s", f.Error())
}

// Open reads and checks an export. now bounds the times of messages.
func Open(file string, now time.Time) (*Export, error) {
	digest, err := digestOf(file)
	if err != nil {
		return nil, err
	}
	z, err := zip.OpenReader(file)
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "%s is not a ZIP file: %v", file, err)
	}
	defer func() { _ = z.Close() }() // it was only read
	if len(z.File) > filesMax {
		return nil, problem.New(problem.TooLarge, "%s holds %d files, at most %d are taken", file, len(z.File), filesMax)
	}
	r := &reader{files: make(map[string]*zip.File, len(z.File)), now: now, users: map[string]int{}, export: &Export{Digest: digest, Skipped: map[string]int{}}}
	for _, f := range z.File {
		r.files[strings.TrimPrefix(path.Clean("/"+f.Name), "/")] = f
	}
	if err := r.read(); err != nil {
		return nil, err
	}
	return r.export, nil
}

func digestOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", problem.Wrap(err, problem.Invalid, "%s can't be read: %v", file, errors.Unwrap(err))
	}
	defer func() { _ = f.Close() }() // it was only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", problem.Wrap(err, problem.Invalid, "%s can't be read", file)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

type reader struct {
	files  map[string]*zip.File
	now    time.Time
	users  map[string]int // index in export.Users
	total  int
	export *Export
}

func (r *reader) read() error {
	if err := r.readUsers(); err != nil {
		return err
	}
	names := map[string]string{}
	for _, list := range []string{"channels.json", "groups.json"} {
		if _, ok := r.files[list]; !ok {
			if list == "channels.json" {
				return fault(list, 0, "is missing: is this a Slack export?")
			}
			continue
		}
		if err := r.readChannels(list, names); err != nil {
			return err
		}
	}
	for _, list := range []string{"dms.json", "mpims.json"} {
		if _, ok := r.files[list]; ok {
			r.export.Skipped["files of direct messages ("+list+")"]++
		}
	}
	return nil
}

func (r *reader) readUsers() error {
	const file = "users.json"
	if _, ok := r.files[file]; !ok {
		return fault(file, 0, "is missing: is this a Slack export?")
	}
	names := map[string]string{}
	return each(r, file, func(line int, u userJSON) error {
		switch {
		case u.ID == "":
			return fault(file, line, "id: a user must have one")
		case u.Name == "":
			return fault(file, line, "name: user %s has none", u.ID)
		}
		if _, ok := r.users[u.ID]; ok {
			return fault(file, line, "id: user %s is there twice", u.ID)
		}
		if first, ok := names[u.Name]; ok {
			return fault(file, line, "name: %q is that of user %s, too", u.Name, first)
		}
		if err := nameFits(file, line, u.Name); err != nil {
			return err
		}
		names[u.Name] = u.ID
		r.addUser(User{ID: u.ID, Name: u.Name, DisplayName: u.shown()})
		return nil
	})
}

func nameFits(file string, line int, name string) error {
	if n := utf8.RuneCountInString(name); n > chat.NameRunesMax || strings.TrimSpace(name) != name {
		return fault(file, line, "name: %q must have at most %d characters and no spaces around", name, chat.NameRunesMax)
	}
	return nil
}

func (r *reader) addUser(u User) {
	r.users[u.ID] = len(r.export.Users)
	r.export.Users = append(r.export.Users, u)
}

func (r *reader) readChannels(list string, names map[string]string) error {
	return each(r, list, func(line int, c channelJSON) error {
		switch {
		case c.ID == "" || c.Name == "":
			return fault(list, line, "id, name: a channel must have both")
		case c.Created < 0:
			return fault(list, line, "created: %d is before 1970", c.Created)
		}
		if first, ok := names[c.Name]; ok {
			return fault(list, line, "name: %q is that of channel %s, too", c.Name, first)
		}
		names[c.Name] = c.ID
		for _, m := range c.Members {
			if _, ok := r.users[m]; !ok {
				return fault(list, line, "members: user %q of channel %s is not in users.json", m, c.Name)
			}
		}
		ch := Channel{
			ID: c.ID, Name: c.Name, Topic: c.topic(), Private: list == "groups.json",
			Members: c.Members, Created: chat.Timestamp(c.Created * 1_000_000),
		}
		if err := r.readMessages(&ch); err != nil {
			return err
		}
		if len(ch.Messages) > 0 {
			ch.Created = min(ch.Created, ch.Messages[0].TS-1)
		}
		r.export.Channels = append(r.export.Channels, ch)
		return nil
	})
}

// days are the files of a channel, oldest first.
func (r *reader) days(channel string) []string {
	var out []string
	for name := range maps.Keys(r.files) {
		if dir, base := path.Split(name); dir == channel+"/" && strings.HasSuffix(base, ".json") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
