package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"parley/cell/directory"
	"parley/internal/ids"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

type pageIn struct {
	After string `query:"after" doc:"next of the page before"`
	Limit int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
}

type channelIn struct {
	Channel topology.ChannelID `path:"channel_id"`
}

type createChannelIn struct {
	Body chat.CreateChannelRequest
}

func (a *API) registerChannels(doc huma.API) {
	route(a, doc, http.MethodGet, "/api/v1/channels", "list-channels", "Channels that the caller may see", http.StatusOK, 0, a.listChannels)
	route(a, doc, http.MethodPost, "/api/v1/channels", "create-channel", "Create a channel and join it", http.StatusCreated, chat.BodyBytesMax, a.createChannel)
	route(a, doc, http.MethodGet, "/api/v1/channels/{channel_id}", "get-channel", "One channel", http.StatusOK, 0, a.getChannel)
}

func (a *API) listChannels(ctx context.Context, in *pageIn) (*body[chat.ChannelPage], error) {
	c := callerOf(ctx)
	rows, err := a.rooms.ListChannels(ctx, c.Place, c.User, c.Admin, in.After, in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := chat.ChannelPage{Channels: make([]chat.Channel, 0, min(len(rows), in.Limit))}
	for i, row := range rows {
		if i == in.Limit {
			out.Next = rows[i-1].Name
			break
		}
		ch, err := a.describe(ctx, c, row)
		if err != nil {
			return nil, err
		}
		out.Channels = append(out.Channels, ch)
	}
	return answer(out), nil
}

func (a *API) getChannel(ctx context.Context, in *channelIn) (*body[chat.Channel], error) {
	c := callerOf(ctx)
	row, err := a.readable(ctx, c, in.Channel)
	if err != nil {
		return nil, err
	}
	ch, err := a.describe(ctx, c, row)
	if err != nil {
		return nil, err
	}
	return answer(ch), nil
}

func (a *API) createChannel(ctx context.Context, in *createChannelIn) (*body[chat.Channel], error) {
	c := callerOf(ctx)
	if c.User == "" {
		return nil, problem.New(problem.Denied, "the token names no user to create as")
	}
	row, err := newChannel(in.Body.Name, in.Body.Topic, in.Body.Private, c.User, a.now().UnixMicro())
	if err != nil {
		return nil, err
	}
	row, err = a.roster.Create(ctx, c.Place, row, []topology.UserID{c.User})
	if err != nil {
		return nil, err
	}
	ch, err := a.describe(ctx, c, row)
	if err != nil {
		return nil, err
	}
	return answer(ch), nil
}

// newChannel is the row of a channel to be created; its number is the
// directory's to give.
func newChannel(name, topic string, private bool, by topology.UserID, ts int64) (directory.Channel, error) {
	if err := chat.CheckChannelName(name); err != nil {
		return directory.Channel{}, err
	}
	if err := chat.CheckTopic(topic); err != nil {
		return directory.Channel{}, err
	}
	return directory.Channel{
		ID: topology.ChannelID(ids.New(ids.Channel)), Name: name, Topic: topic, Private: private, CreatedBy: by, CreatedTS: ts,
	}, nil
}

// readable is the channel's row if the caller may know of it and read it.
func (a *API) readable(ctx context.Context, c caller, ch topology.ChannelID) (directory.Channel, error) {
	return directory.Readable(ctx, a.rooms, c.Place, c.User, c.Admin, ch)
}

func (a *API) describe(ctx context.Context, c caller, row directory.Channel) (chat.Channel, error) {
	n, err := a.rooms.MemberCount(ctx, c.Place, row.ID)
	if err != nil {
		return chat.Channel{}, err
	}
	var member bool
	if c.User != "" {
		if _, member, err = a.rooms.Member(ctx, c.Place, row.ID, c.User); err != nil {
			return chat.Channel{}, err
		}
	}
	return chat.Channel{
		ID: row.ID, Name: row.Name, Topic: row.Topic, Private: row.Private, CreatedBy: row.CreatedBy,
		CreatedTS: chat.Timestamp(row.CreatedTS), IsMember: member, MemberCount: n,
	}, nil
}
