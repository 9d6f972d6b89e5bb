package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

type membersIn struct {
	Channel topology.ChannelID `path:"channel_id"`
	After   topology.UserID    `query:"after" doc:"next of the page before"`
	Limit   int                `query:"limit" minimum:"1" maximum:"1000" default:"200"`
}

type addMembersIn struct {
	Channel topology.ChannelID `path:"channel_id"`
	Body    chat.MembersRequest
}

type removeMemberIn struct {
	Channel topology.ChannelID `path:"channel_id"`
	User    topology.UserID    `path:"user_id"`
}

func (a *API) registerMembers(doc huma.API) {
	const base = "/api/v1/channels/{channel_id}"
	route(a, doc, http.MethodPost, base+"/join", "join-channel", "Join a public channel", http.StatusOK, chat.BodyBytesMax, a.join)
	route(a, doc, http.MethodPost, base+"/leave", "leave-channel", "Leave a channel", http.StatusOK, chat.BodyBytesMax, a.leave)
	route(a, doc, http.MethodGet, base+"/members", "list-members", "Who is in a channel", http.StatusOK, 0, a.listMembers)
	route(a, doc, http.MethodPost, base+"/members", "add-members", "Add people to a channel", http.StatusOK, chat.BodyBytesMax, a.addMembers)
	route(a, doc, http.MethodDelete, base+"/members/{user_id}", "remove-member", "Take somebody out of a channel", http.StatusOK, 0, a.removeMember)
}

func (a *API) join(ctx context.Context, in *channelIn) (*body[chat.MembershipResponse], error) {
	c := callerOf(ctx)
	if c.User == "" {
		return nil, problem.New(problem.Denied, "the token names no user to join as")
	}
	row, err := a.readable(ctx, c, in.Channel)
	if err != nil {
		return nil, err
	}
	if row.Private && !c.Admin {
		return nil, problem.New(problem.Denied, "a private channel is joined by being added")
	}
	return a.add(ctx, c, in.Channel, []topology.UserID{c.User})
}

func (a *API) leave(ctx context.Context, in *channelIn) (*body[chat.MembershipResponse], error) {
	c := callerOf(ctx)
	if c.User == "" {
		return nil, problem.New(problem.Denied, "the token names no user to leave as")
	}
	return a.remove(ctx, c, in.Channel, c.User)
}

func (a *API) addMembers(ctx context.Context, in *addMembersIn) (*body[chat.MembershipResponse], error) {
	c := callerOf(ctx)
	if n := len(in.Body.UserIDs); n < 1 || n > chat.BulkMax {
		return nil, problem.Field("user_ids", "must name 1 to %d users", chat.BulkMax)
	}
	if err := a.mayManage(ctx, c, in.Channel); err != nil {
		return nil, err
	}
	return a.add(ctx, c, in.Channel, in.Body.UserIDs)
}

func (a *API) removeMember(ctx context.Context, in *removeMemberIn) (*body[chat.MembershipResponse], error) {
	c := callerOf(ctx)
	if in.User != c.User {
		if err := a.mayManage(ctx, c, in.Channel); err != nil {
			return nil, err
		}
	}
	return a.remove(ctx, c, in.Channel, in.User)
}

// mayManage lets members (and admins) add and remove others, as Slack does by
// default.
func (a *API) mayManage(ctx context.Context, c caller, ch topology.ChannelID) error {
	if _, err := a.readable(ctx, c, ch); err != nil || c.Admin {
		return err
	}
	_, member, err := a.rooms.Member(ctx, c.Place, ch, c.User)
	if err != nil {
		return err
	}
	if !member {
		return problem.New(problem.Denied, "you are not a member of this channel")
	}
	return nil
}

func (a *API) add(ctx context.Context, c caller, ch topology.ChannelID, us []topology.UserID) (*body[chat.MembershipResponse], error) {
	rev, err := a.roster.Add(ctx, c.Place, ch, us, c.User)
	if err != nil {
		return nil, err
	}
	return answer(chat.MembershipResponse{Rev: rev}), nil
}

func (a *API) remove(ctx context.Context, c caller, ch topology.ChannelID, u topology.UserID) (*body[chat.MembershipResponse], error) {
	if _, err := a.readable(ctx, c, ch); err != nil {
		return nil, err
	}
	rev, err := a.roster.Remove(ctx, c.Place, ch, u, c.User)
	if err != nil {
		return nil, err
	}
	return answer(chat.MembershipResponse{Rev: rev}), nil
}

func (a *API) listMembers(ctx context.Context, in *membersIn) (*body[chat.MemberPage], error) {
	c := callerOf(ctx)
	if _, err := a.readable(ctx, c, in.Channel); err != nil {
		return nil, err
	}
	us, err := a.rooms.Members(ctx, c.Place, in.Channel, in.After, in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := chat.MemberPage{UserIDs: us}
	if len(us) > in.Limit {
		out.UserIDs = us[:in.Limit]
		out.Next = string(us[in.Limit-1])
	}
	if out.UserIDs == nil {
		out.UserIDs = []topology.UserID{}
	}
	return answer(out), nil
}
