package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

type usersIn struct {
	After topology.UserID `query:"after" doc:"next of the page before"`
	Limit int             `query:"limit" minimum:"1" maximum:"1000" default:"200"`
}

func (a *API) registerUsers(doc huma.API) {
	route(a, doc, http.MethodGet, "/api/v1/users/me", "get-me", "Who the token is for", http.StatusOK, 0, a.me)
	route(a, doc, http.MethodGet, "/api/v1/users", "list-users", "People of the workspace", http.StatusOK, 0, a.listUsers)
}

func (a *API) me(ctx context.Context, _ *struct{}) (*body[chat.User], error) {
	c := callerOf(ctx)
	if c.User == "" {
		return nil, problem.New(problem.NotFound, "the token is a tool's: it names no user")
	}
	u, err := a.directory.User(ctx, c.Place, c.User)
	if err != nil {
		return nil, err
	}
	return answer(person(c.Place.Workspace, u)), nil
}

func (a *API) listUsers(ctx context.Context, in *usersIn) (*body[chat.UserPage], error) {
	c := callerOf(ctx)
	rows, err := a.directory.Users(ctx, c.Place, in.After, in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := chat.UserPage{Users: make([]chat.User, 0, min(len(rows), in.Limit))}
	for i, row := range rows {
		if i == in.Limit {
			out.Next = string(rows[i-1].ID)
			break
		}
		out.Users = append(out.Users, person(c.Place.Workspace, row))
	}
	return answer(out), nil
}

func person(ws topology.WorkspaceID, u directory.User) chat.User {
	return chat.User{ID: u.ID, WorkspaceID: ws, Name: u.Name, DisplayName: u.DisplayName, Admin: u.Admin}
}
