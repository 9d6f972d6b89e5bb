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
	"slices"
	"strings"
	"time"
	"unicode"

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
	File            string // with Line: where the export describes it
	Line            int
}

// Fault is an error of what the export says about the channel.
func (c *Channel) Fault(err error) error { return faulty(c.File, c.Line, err) }

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
	// Changed counts what is read otherwise than it stands, by how.
	Changed map[string]int
}

// Limits of an export. An export beyond them is imported in parts, which Slack
// makes by dates.
const (
	filesMax     = 1_000_000
	fileBytesMax = 256 << 20
	unpackedMax  = 16 << 30
	messagesMax  = 50_000_000
	// Exports unpack to some 15 times their size, and what repeats one line for ever
	// to 1,000 times. Little is taken however well it is packed.
	growthTimes = 200
	growthFree  = 64 << 20
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
	f := &Fault{File: printable(file), Line: line, What: printable(fmt.Sprintf(format, args...))}
	return problem.Wrap(f, problem.Invalid, "%s", f.Error())
}

// printable keeps names and ids of the export, whoever wrote it, from moving the
// terminal's cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// faulty is an error of a rule of the API, about something in a file.
func faulty(file string, line int, err error) error {
	return fault(file, line, "%s", problem.Show(err))
}

// Open reads and checks an export. now bounds the times of messages.
func Open(file string, now time.Time) (*Export, error) {
	digest, size, err := digestOf(file)
	if err != nil {
		return nil, err
	}
	z, err := zip.OpenReader(file)
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "%s is not a ZIP file: %v", file, err)
	}
	defer func() { _ = z.Close() }() // it was only read
	a, err := newArchive(file, &z.Reader, size)
	if err != nil {
		return nil, err
	}
	r := &reader{
		archive: a, now: now, users: map[string]int{}, userNames: map[string]string{}, channelNames: map[string]string{},
		export: &Export{Digest: digest, Skipped: map[string]int{}, Changed: map[string]int{}},
	}
	if err := r.all(); err != nil {
		return nil, err
	}
	return r.export, nil
}

func digestOf(file string) (digest string, size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, problem.Wrap(err, problem.Invalid, "%s can't be read: %v", file, errors.Unwrap(err))
	}
	defer func() { _ = f.Close() }() // it was only read
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, problem.Wrap(err, problem.Invalid, "%s can't be read", file)
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

type reader struct {
	archive
	now          time.Time
	users        map[string]int    // index in export.Users
	userNames    map[string]string // to ids
	channelNames map[string]string // to ids
	total        int
	export       *Export
}

func (r *reader) all() error {
	if err := r.readUsers(); err != nil {
		return err
	}
	for _, list := range []string{"channels.json", "groups.json"} {
		if !r.has(list) {
			if list == "channels.json" {
				return fault(list, 0, "is missing: is this a Slack export?")
			}
			continue
		}
		if err := r.readChannels(list); err != nil {
			return err
		}
	}
	for _, list := range []string{"dms.json", "mpims.json"} {
		if r.has(list) {
			r.export.Skipped["files of direct messages ("+list+")"]++
			r.read[list] = true
		}
	}
	maps.Copy(r.export.Skipped, r.unread())
	return nil
}

func (r *reader) readUsers() error {
	const file = "users.json"
	if !r.has(file) {
		return fault(file, 0, "is missing: is this a Slack export?")
	}
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
		return r.addUser(file, line, User{ID: u.ID, Name: u.Name, DisplayName: r.clip(u.shown())})
	})
}

// addUser takes a user that Parley can have. Two of one name would be one person.
func (r *reader) addUser(file string, line int, u User) error {
	if first, ok := r.userNames[u.Name]; ok {
		return fault(file, line, "name: %q is that of user %s, too", u.Name, first)
	}
	if err := (chat.NewUser{Name: u.Name, DisplayName: u.DisplayName}).Check(); err != nil {
		return fault(file, line, "user %q: %s", u.ID, problem.Show(err))
	}
	r.userNames[u.Name] = u.ID
	r.users[u.ID] = len(r.export.Users)
	r.export.Users = append(r.export.Users, u)
	return nil
}

func (r *reader) readChannels(list string) error {
	return each(r, list, func(line int, c channelJSON) error {
		if err := r.checkChannel(list, line, c); err != nil {
			return err
		}
		r.channelNames[c.Name] = c.ID
		members, err := r.members(list, line, c)
		if err != nil {
			return err
		}
		ch := Channel{
			File: list, Line: line, ID: c.ID, Name: c.Name, Topic: c.topic(), Private: list == "groups.json",
			Members: members, Created: chat.Timestamp(c.Created * 1_000_000),
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

// Nothing in an export is older: Slack is younger, archives of other chats that come
// in its form may be as old. A smaller number is in other units, or made up.
var earliest = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) //nolint:gochecknoglobals // a constant

const createdAhead = 24 * time.Hour

// checkChannel checks a channel against the rules of the API that it is sent to.
func (r *reader) checkChannel(list string, line int, c channelJSON) error {
	if c.ID == "" || c.Name == "" {
		return fault(list, line, "id, name: a channel must have both")
	}
	if strings.Contains(c.ID, "\x00") {
		return fault(list, line, "id: must not have NUL (\\u0000)")
	}
	if first, ok := r.channelNames[c.Name]; ok {
		return fault(list, line, "name: %q is that of channel %s, too", c.Name, first)
	}
	if err := chat.CheckChannelName(c.Name); err != nil {
		return faulty(list, line, err)
	}
	if err := chat.CheckTopic(c.topic()); err != nil {
		return faulty(list, line, err)
	}
	if latest := r.now.Add(createdAhead); c.Created < earliest.Unix() || c.Created > latest.Unix() {
		return fault(list, line, "created: %d must be in seconds since 1970, from %s to %s", c.Created, earliest.Format(time.DateOnly), latest.UTC().Format(time.DateOnly))
	}
	return nil
}

// members are the channel's, each once.
func (r *reader) members(list string, line int, c channelJSON) ([]string, error) {
	for _, m := range c.Members {
		if err := r.known(list, line, m, ""); err != nil {
			return nil, err
		}
	}
	out := slices.Clone(c.Members)
	slices.Sort(out)
	if out = slices.Compact(out); len(out) == len(c.Members) {
		return c.Members, nil
	}
	r.export.Changed["members named twice in one channel, who are members once"] += len(c.Members) - len(out)
	return out, nil
}
