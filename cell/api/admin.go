package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"parley/cell/channel"
	"parley/cell/directory"
	"parley/internal/ids"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

type putUsersIn struct {
	Body chat.PutUsersRequest
}

type adminChannelIn struct {
	Body chat.AdminChannelRequest
}

type adminChannelsIn struct {
	Name string `query:"name" required:"true"`
}

type importIn struct {
	Channel topology.ChannelID `path:"channel_id"`
	Body    chat.ImportRequest
}

func (a *API) registerAdmin(doc huma.API) {
	const base = "/api/v1/admin"
	route(a, doc, http.MethodPost, base+"/users", "admin-put-users", "Add people; names that exist are found", http.StatusOK, chat.BodyBytesMax, a.putUsers)
	route(a, doc, http.MethodPost, base+"/channels", "admin-create-channel", "Create a channel for others, or for an import", http.StatusCreated, chat.BodyBytesMax, a.adminCreate)
	route(a, doc, http.MethodGet, base+"/channels", "admin-find-channel", "Find a channel by name, also one being imported", http.StatusOK, 0, a.adminFind)
	route(a, doc, http.MethodPost, base+"/channels/{channel_id}/import", "admin-import", "Import the next messages of a channel", http.StatusOK, chat.ImportBodyBytesMax, a.importBatch)
	route(a, doc, http.MethodPost, base+"/channels/{channel_id}/import/finish", "admin-finish-import", "Show an imported channel", http.StatusOK, chat.BodyBytesMax, a.finishImport)
}

func requireAdmin(ctx context.Context) (caller, error) {
	c := callerOf(ctx)
	if !c.Admin {
		return c, problem.New(problem.Denied, "only an admin of the workspace may do this")
	}
	return c, nil
}

func (a *API) putUsers(ctx context.Context, in *putUsersIn) (*body[chat.PutUsersResponse], error) {
	c, err := requireAdmin(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(in.Body.Users); n < 1 || n > chat.BulkMax {
		return nil, problem.Field("users", "must name 1 to %d people", chat.BulkMax)
	}
	rows := make([]directory.User, len(in.Body.Users))
	for i, u := range in.Body.Users {
		if err := u.Check(); err != nil {
			return nil, problem.Field("users", "user %d: %s", i, problem.Show(err))
		}
		rows[i] = directory.User{ID: topology.UserID(ids.New(ids.User)), Name: u.Name, DisplayName: u.DisplayName, Admin: u.Admin}
	}
	rows, err = a.directory.PutUsers(ctx, c.Place, rows)
	if err != nil {
		return nil, err
	}
	out := chat.PutUsersResponse{Users: make([]chat.User, len(rows))}
	for i, row := range rows {
		out.Users[i] = person(c.Place.Workspace, row)
	}
	return answer(out), nil
}

func (a *API) adminCreate(ctx context.Context, in *adminChannelIn) (*body[chat.AdminChannel], error) {
	c, err := requireAdmin(ctx)
	if err != nil {
		return nil, err
	}
	r := in.Body
	importing := r.ImportDigest != ""
	switch {
	case len(r.Members) > chat.BulkMax:
		return nil, problem.Field("members", "must name at most %d users; add the others later", chat.BulkMax)
	case importing && len(r.Members) > 0:
		return nil, problem.Field("members", "can't be given for an import: add them when it is finished")
	case len(r.ImportDigest) > chat.ClientMsgIDBytesMax:
		return nil, problem.Field("import_digest", "must have at most %d bytes", chat.ClientMsgIDBytesMax)
	}
	if importing {
		found, err := a.rooms.ChannelByName(ctx, c.Place, r.Name)
		if err == nil && found.ImportDigest == r.ImportDigest {
			return a.adminAnswer(ctx, c, found)
		}
	}
	ts := a.now().UnixMicro()
	if r.CreatedTS != nil {
		if !importing {
			return nil, problem.Field("created_ts", "can only be given for an import")
		}
		ts = int64(*r.CreatedTS)
	}
	row, err := newChannel(r.Name, r.Topic, r.Private, c.User, ts)
	if err != nil {
		return nil, err
	}
	row.Importing, row.ImportDigest = importing, r.ImportDigest
	if row, err = a.roster.Create(ctx, c.Place, row, r.Members); err != nil {
		if problem.Is(err, problem.Invalid) { // what it is told of is members, by the name they have here
			err = problem.Field("members", "names somebody who is not in this workspace")
		}
		return nil, err
	}
	return a.adminAnswer(ctx, c, row)
}

func (a *API) adminFind(ctx context.Context, in *adminChannelsIn) (*body[chat.AdminChannel], error) {
	c, err := requireAdmin(ctx)
	if err != nil {
		return nil, err
	}
	row, err := a.rooms.ChannelByName(ctx, c.Place, in.Name)
	if err != nil {
		return nil, err
	}
	return a.adminAnswer(ctx, c, row)
}

func (a *API) adminAnswer(ctx context.Context, c caller, row directory.Channel) (*body[chat.AdminChannel], error) {
	ch, err := a.describe(ctx, c, row)
	if err != nil {
		return nil, err
	}
	out := chat.AdminChannel{Channel: ch, Importing: row.Importing, ImportDigest: row.ImportDigest}
	if row.Importing {
		heads, err := a.channels.Heads(ctx, []topology.ChannelRef{{Place: c.Place, Channel: row.ID}})
		if err != nil {
			return nil, err
		}
		out.Imported = channel.ImportedAt(heads[0].Rev)
	}
	return answer(out), nil
}

func (a *API) importBatch(ctx context.Context, in *importIn) (*body[chat.ImportResponse], error) {
	c, err := requireAdmin(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(in.Body.Messages); n < 1 || n > chat.ImportBatchMax {
		return nil, problem.Field("messages", "must hold 1 to %d", chat.ImportBatchMax)
	}
	im := channel.Import{
		Channel: topology.ChannelRef{Place: c.Place, Channel: in.Channel}, From: in.Body.From,
		Messages: make([]channel.Imported, len(in.Body.Messages)),
	}
	for i, m := range in.Body.Messages {
		im.Messages[i] = channel.Imported{Author: m.UserID, TS: int64(m.TS), Text: m.Text, Root: m.RootSeq}
	}
	n, err := a.channels.Import(ctx, im)
	if err != nil {
		return nil, err
	}
	return answer(chat.ImportResponse{Imported: n}), nil
}

func (a *API) finishImport(ctx context.Context, in *channelIn) (*body[chat.AdminChannel], error) {
	c, err := requireAdmin(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.rooms.FinishImport(ctx, c.Place, in.Channel); err != nil {
		return nil, err
	}
	row, err := a.rooms.Channel(ctx, c.Place, in.Channel)
	if err != nil {
		return nil, err
	}
	return a.adminAnswer(ctx, c, row)
}
