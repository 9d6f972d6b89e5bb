package importer

import (
	"context"

	"parley/internal/problem"
	"parley/internal/slack"
	"parley/internal/wire/chat"
)

// Fits checks what the export alone does not tell: that the API takes its channels
// under the names and marks that they get here. An import that is refused half-way
// leaves some channels to be seen and others not.
func Fits(e *slack.Export, prefix string) error {
	for i := range e.Channels {
		ch := &e.Channels[i]
		if err := chat.CheckChannelName(prefix + ch.Name); err != nil {
			return ch.Fault(problem.New(problem.Invalid, "with --prefix %q: %s", prefix, problem.Show(err)))
		}
		if over := len(digest(e, ch)) - chat.ClientMsgIDBytesMax; over > 0 {
			return ch.Fault(problem.Field("id", "has %d bytes, at most %d are taken", len(ch.ID), len(ch.ID)-over))
		}
	}
	return nil
}

// digest marks a channel as that of this file, so that a second run finds it.
func digest(e *slack.Export, ch *slack.Channel) string { return e.Digest + ":" + ch.ID }

// mayMake asks whether the channel's name is free, or the channel from this file.
func (im *Importer) mayMake(ctx context.Context, ch *slack.Channel) (Result, error) {
	r := Result{Channel: im.prefix + ch.Name}
	found, err := im.client.AdminChannel(ctx, r.Channel)
	switch {
	case problem.Is(err, problem.NotFound):
		return r, nil
	case err != nil:
		return r, err
	case found.ImportDigest != digest(im.export, ch):
		return r, taken(r.Channel)
	}
	return r, nil
}

func taken(channel string) error {
	return problem.New(problem.Conflict, "channel %s exists and is not from this file; use --prefix to give the imported ones other names", channel)
}
