package client

import (
	"context"
	"net/http"
	"net/url"

	"parley/internal/topology"
	"parley/internal/wire/chat"
)

const adminPath = "/api/v1/admin"

// PutUsers adds people, at most 1,000 in one call; names that exist are found.
// The users come back in the order of the request.
func (c *Client) PutUsers(ctx context.Context, us []chat.NewUser) ([]chat.User, error) {
	var out chat.PutUsersResponse
	err := c.do(ctx, call{
		method: http.MethodPost, path: adminPath + "/users", body: chat.PutUsersRequest{Users: us}, repeatable: true,
	}, &out)
	return out.Users, err
}

// AdminCreateChannel makes a channel for others, or for an import; the same
// import_digest finds the channel again.
func (c *Client) AdminCreateChannel(ctx context.Context, r chat.AdminChannelRequest) (chat.AdminChannel, error) {
	var out chat.AdminChannel
	err := c.do(ctx, call{method: http.MethodPost, path: adminPath + "/channels", body: r, repeatable: r.ImportDigest != ""}, &out)
	return out, err
}

// AdminChannel finds a channel by name, also one that is being imported.
func (c *Client) AdminChannel(ctx context.Context, name string) (chat.AdminChannel, error) {
	var out chat.AdminChannel
	err := c.get(ctx, adminPath+"/channels", url.Values{"name": {name}}, &out)
	return out, err
}

// Import puts the next messages into a channel that is being imported. A batch
// whose From is not where the channel is gets a Conflict, and did nothing.
func (c *Client) Import(ctx context.Context, ch topology.ChannelID, r chat.ImportRequest) (chat.ImportResponse, error) {
	var out chat.ImportResponse
	err := c.do(ctx, call{method: http.MethodPost, path: adminPath + "/channels/" + url.PathEscape(string(ch)) + "/import", body: r}, &out)
	return out, err
}

// FinishImport shows an imported channel.
func (c *Client) FinishImport(ctx context.Context, ch topology.ChannelID) (chat.AdminChannel, error) {
	var out chat.AdminChannel
	err := c.do(ctx, call{
		method: http.MethodPost, path: adminPath + "/channels/" + url.PathEscape(string(ch)) + "/import/finish", repeatable: true,
	}, &out)
	return out, err
}

// RebuildSearch does a step of making the workspace's search index again: from the
// start without a cursor, else from where the step that gave it ended.
func (c *Client) RebuildSearch(ctx context.Context, cursor string) (chat.RebuildResponse, error) {
	var out chat.RebuildResponse
	err := c.do(ctx, call{
		method: http.MethodPost, path: adminPath + "/search/rebuild", body: chat.RebuildRequest{Cursor: cursor}, repeatable: true,
	}, &out)
	return out, err
}
