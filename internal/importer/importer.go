// Package importer moves a Slack export into a workspace, through the same API
// that everybody uses, and compares what the API gives back with the file.
//
// An import may be cut off anywhere and run again: users are found by name,
// channels by the digest of the file, and each batch says how many messages are
// in before it, so that none lands twice. Nobody sees a channel before its last
// message is in.
package importer

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/slack"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Progress is how far an import or a check has come; Done and Total count
// messages. It may be read at any time.
type Progress struct {
	Total int64
	done  atomic.Int64
}

// Done is how many messages are in, or compared.
func (p *Progress) Done() int64 { return p.done.Load() }

// Result is what became of one channel.
type Result struct {
	Channel  string             `json:"channel"`
	ID       topology.ChannelID `json:"id"`
	Messages int                `json:"messages"`
	Threads  int                `json:"threads"`
	Replies  int                `json:"replies"`
	Members  int                `json:"members"`
	Already  bool               `json:"already,omitempty"` // it was in before this run
}

// Importer imports one export.
type Importer struct {
	client   *client.Client
	export   *slack.Export
	prefix   string
	progress *Progress
	users    map[string]topology.UserID
}

// channelsAtOnce is how many channels are filled side by side: enough that their
// commits share the disk's syncs.
const channelsAtOnce = 4

// New makes an importer; prefix goes before the names of channels.
func New(c *client.Client, e *slack.Export, prefix string) *Importer {
	im := &Importer{client: c, export: e, prefix: prefix, progress: &Progress{}}
	for _, ch := range e.Channels {
		im.progress.Total += int64(len(ch.Messages))
	}
	return im
}

// Progress may be read while Run or Check runs.
func (im *Importer) Progress() *Progress { return im.progress }

// Run imports what is not in yet and returns a result per channel, in the order
// of the file.
func (im *Importer) Run(ctx context.Context) ([]Result, error) {
	if err := Fits(im.export, im.prefix); err != nil {
		return nil, err
	}
	if _, err := im.forEach(ctx, im.mayMake); err != nil {
		return nil, err
	}
	if err := im.putUsers(ctx); err != nil {
		return nil, err
	}
	return im.forEach(ctx, im.channel)
}

// forEach works on several channels at once and stops at the first error.
func (im *Importer) forEach(ctx context.Context, do func(context.Context, *slack.Channel) (Result, error)) ([]Result, error) {
	results := make([]Result, len(im.export.Channels))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(channelsAtOnce)
	for i := range im.export.Channels {
		g.Go(func() error {
			r, err := do(ctx, &im.export.Channels[i])
			results[i] = r
			return err
		})
	}
	return results, g.Wait()
}

// putUsers makes the export's people, or finds them.
func (im *Importer) putUsers(ctx context.Context) error {
	im.users = make(map[string]topology.UserID, len(im.export.Users))
	for batch := range slices.Chunk(im.export.Users, chat.BulkMax) {
		names := make([]chat.NewUser, len(batch))
		for i, u := range batch {
			names[i] = chat.NewUser{Name: u.Name, DisplayName: u.DisplayName}
		}
		made, err := im.client.PutUsers(ctx, names)
		if err != nil {
			return err
		}
		if len(made) != len(batch) {
			return problem.New(problem.Internal, "%d users were sent, %d came back", len(batch), len(made))
		}
		for i, u := range batch {
			im.users[u.ID] = made[i].ID
		}
	}
	return nil
}

func (im *Importer) channel(ctx context.Context, ch *slack.Channel) (Result, error) {
	r := summary(im.prefix, ch)
	created := ch.Created
	made, err := im.client.AdminCreateChannel(ctx, chat.AdminChannelRequest{
		Name: r.Channel, Topic: ch.Topic, Private: ch.Private, CreatedTS: &created,
		ImportDigest: digest(im.export, ch),
	})
	if problem.Is(err, problem.Conflict) {
		return r, taken(r.Channel)
	}
	if err != nil {
		return r, err
	}
	r.ID, r.Already = made.ID, !made.Importing
	if made.Importing {
		if err := im.fill(ctx, ch, made); err != nil {
			return r, err
		}
		if _, err := im.client.FinishImport(ctx, made.ID); err != nil {
			return r, err
		}
	} else {
		im.progress.done.Add(int64(len(ch.Messages)))
	}
	return r, im.addMembers(ctx, ch, made.ID)
}

// summary counts a channel of the file.
func summary(prefix string, ch *slack.Channel) Result {
	r := Result{Channel: prefix + ch.Name, Messages: len(ch.Messages), Members: len(ch.Members)}
	rooted := map[int]bool{}
	for _, m := range ch.Messages {
		if m.Root >= 0 {
			r.Replies++
			rooted[m.Root] = true
		}
	}
	r.Threads = len(rooted)
	return r
}

// Batches hold at most batchMax messages and batchBytesMax of text, which JSON
// may escape to six times its size: below the API's 8 MiB.
const (
	batchMax      = 1000
	batchBytesMax = 1 << 20
)

// fill puts the messages that are not in yet into a channel.
func (im *Importer) fill(ctx context.Context, ch *slack.Channel, made chat.AdminChannel) error {
	seqs := topSeqs(ch)
	at := int(min(made.Imported, uint64(len(ch.Messages)))) //nolint:gosec // at most a length
	im.progress.done.Add(int64(at))
	for at < len(ch.Messages) {
		batch := chat.ImportRequest{From: uint64(at)}
		size := 0
		for _, m := range ch.Messages[at:] {
			if size += len(m.Text); len(batch.Messages) == batchMax || (size > batchBytesMax && len(batch.Messages) > 0) {
				break
			}
			out := chat.ImportMessage{UserID: im.users[m.User], TS: m.TS, Text: m.Text}
			if m.Root >= 0 {
				out.RootSeq = seqs[m.Root]
			}
			batch.Messages = append(batch.Messages, out)
		}
		next, err := im.send(ctx, made, batch)
		if err != nil {
			return err
		}
		im.progress.done.Add(int64(next - at))
		at = next
	}
	return nil
}

// unknownMax bounds how often one batch's outcome may be unclear.
const unknownMax = 8

// send sends a batch and returns how many messages are in afterwards. When the
// outcome is unclear, the channel itself knows.
func (im *Importer) send(ctx context.Context, made chat.AdminChannel, batch chat.ImportRequest) (int, error) {
	for range unknownMax {
		done, err := im.client.Import(ctx, made.ID, batch)
		if err == nil {
			return int(done.Imported), nil //nolint:gosec // below the file's length
		}
		if !problem.Is(err, problem.Unknown) && !problem.Is(err, problem.Conflict) {
			return 0, err
		}
		now, err := im.client.AdminChannel(ctx, made.Name)
		if err != nil {
			return 0, err
		}
		if now.ID != made.ID || !now.Importing {
			return 0, problem.New(problem.Conflict, "channel %s is no longer being imported: does another import run?", made.Name)
		}
		if now.Imported != batch.From {
			return int(now.Imported), nil //nolint:gosec // as above
		}
	}
	return 0, problem.New(problem.Unknown, "channel %s: the outcome of a batch stays unclear; run the same command again", made.Name)
}

// topSeqs is the seq that each top-level message gets.
func topSeqs(ch *slack.Channel) []topology.Seq {
	out := make([]topology.Seq, len(ch.Messages))
	var seq topology.Seq
	for i, m := range ch.Messages {
		if m.Root < 0 {
			seq++
			out[i] = seq
		}
	}
	return out
}

func (im *Importer) addMembers(ctx context.Context, ch *slack.Channel, id topology.ChannelID) error {
	ids := make([]topology.UserID, len(ch.Members))
	for i, m := range ch.Members {
		ids[i] = im.users[m]
	}
	for batch := range slices.Chunk(ids, chat.BulkMax) {
		if _, err := im.client.AddMembers(ctx, id, batch); err != nil {
			return err
		}
	}
	return nil
}

// ErrDiffers is that the API gives something else than the file.
var ErrDiffers = errors.New("the workspace differs from the file")
