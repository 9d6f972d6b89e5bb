package devcluster

import (
	"context"
	"crypto/tls"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"parley/client"
	"parley/controlplane"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/gen/parley/control/v1/controlv1connect"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// demoWorkspace is a workspace that newcomers find.
type demoWorkspace struct {
	slug, name string
	channels   []string
	users      []string
}

func demos() []demoWorkspace {
	return []demoWorkspace{
		{"acme", "Acme", []string{"general", "random", "incidents"}, []string{"ann", "bob", "carol", "dave", "erin"}},
		{"globex", "Globex", []string{"general", "random", "sales"}, []string{"fay", "gus", "hana", "ivan", "june"}},
	}
}

const (
	demoMax  = 2 * time.Minute
	demoTry  = 5 * time.Second // of one call: on a busy machine one met an edge that waited 30 s for its cell
	demoTTL  = 30 * 24 * time.Hour
	demoLook = 20 * time.Millisecond
)

// demo tells the control plane of the regions and cells, makes the demo
// workspaces, and writes dev.json; all of it finds what a former start has made.
func (w *cluster) demo(ctx context.Context, ready func()) error {
	d := &demo{cluster: w}
	most, cancel := context.WithTimeout(ctx, demoMax)
	defer cancel()
	info, err := d.make(most)
	if err != nil {
		return err
	}
	if err := info.write(filepath.Join(w.Data, InfoFile)); err != nil {
		return err
	}
	ready()
	w.ready(info)
	<-ctx.Done()
	return nil
}

type demo struct {
	*cluster
	control controlv1connect.ControlServiceClient
	tls     *tls.Config
}

func (d *demo) make(ctx context.Context) (Info, error) {
	d.tls = &tls.Config{RootCAs: d.ca.CAPool(), MinVersion: tls.VersionTLS12}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: d.tls, ForceAttemptHTTP2: true}}
	defer web.CloseIdleConnections()
	d.control = controlv1connect.NewControlServiceClient(web, d.plan.controlURLs()[0], connect.WithInterceptors(bearer(d.operator)))
	info := Info{
		Edges: d.plan.edgeURLs(d.Config), Control: d.plan.controlURLs(), OperatorToken: d.operator, Admin: d.plan.adminURLs(), CA: filepath.Join(d.Data, "ca", "ca.pem"),
	}
	if abs, err := filepath.Abs(info.CA); err == nil {
		info.CA = abs
	}
	if err := d.places(ctx); err != nil {
		return info, err
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	info.Workspaces = make([]WorkspaceInfo, len(demos()))
	for i, ws := range demos() {
		g.Go(func() error {
			home := d.plan.regions[i%len(d.plan.regions)]
			made, err := d.workspace(ctx, ws, home)
			mu.Lock()
			defer mu.Unlock()
			info.Workspaces[i] = made
			return err
		})
	}
	return info, g.Wait()
}

func bearer(token string) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			r.Header().Set("Authorization", "Bearer "+token)
			return next(ctx, r)
		}
	}
}

// again repeats a call until it succeeds, exists already, or can't succeed: a
// cluster that has just started is still finding its leader.
func again(ctx context.Context, do func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, demoTry)
		err := do(try)
		late := try.Err() != nil
		cancel()
		switch kind := controlplane.KindOf(err); {
		case err != nil && late: // whoever was asked may have been a moment too early, too
		case kind == problem.Unavailable, kind == problem.Unknown, kind == problem.Moved, kind == problem.Unauthentic:
			// Unauthentic: the edge has not seen the signing key yet.
		case kind == problem.Conflict:
			return nil
		default:
			return err
		}
		if err == nil {
			return nil
		}
		t := time.NewTimer(demoLook)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// places records the regions and cells.
func (d *demo) places(ctx context.Context) error {
	for _, r := range d.plan.regions {
		err := again(ctx, func(ctx context.Context) error {
			_, err := d.control.CreateRegion(ctx, connect.NewRequest(&controlv1.CreateRegionRequest{
				Region: &controlv1.Region{Id: string(r.id), EtcdEndpoints: []string{r.etcdClient}},
			}))
			return err
		})
		if err != nil {
			return err
		}
		for _, c := range r.cells {
			err := again(ctx, func(ctx context.Context) error {
				_, err := d.control.CreateCell(ctx, connect.NewRequest(&controlv1.CreateCellRequest{
					Cell: &controlv1.Cell{Id: string(c.id), Region: string(r.id)},
				}))
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// workspace makes one workspace with its people and channels, or finds them.
func (d *demo) workspace(ctx context.Context, ws demoWorkspace, home regionPlan) (WorkspaceInfo, error) {
	out := WorkspaceInfo{Slug: ws.slug}
	err := again(ctx, func(ctx context.Context) error {
		_, err := d.control.CreateWorkspace(ctx, connect.NewRequest(&controlv1.CreateWorkspaceRequest{
			Workspace: &controlv1.Workspace{Slug: ws.slug, Name: ws.name, HomeRegion: string(home.id)},
		}))
		return err
	})
	if err != nil {
		return out, err
	}
	err = again(ctx, func(ctx context.Context) error {
		r, err := d.control.GetWorkspace(ctx, connect.NewRequest(&controlv1.GetWorkspaceRequest{Workspace: ws.slug}))
		if err != nil {
			return err
		}
		out.ID, out.Cell = topology.WorkspaceID(r.Msg.GetWorkspace().GetId()), topology.CellID(r.Msg.GetWorkspace().GetCell())
		if r.Msg.GetWorkspace().GetState() != "active" {
			return problem.New(problem.Unavailable, "workspace %s is not open yet", ws.slug)
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	admin, err := d.token(ctx, ws.slug, "", "admin")
	if err != nil {
		return out, err
	}
	c, err := client.New(client.Config{URL: d.plan.edgeURLs(d.Config)[0].URL, Token: admin, TLS: d.tls})
	if err != nil {
		return out, err
	}
	defer c.Close()
	if err := d.people(ctx, c, ws, &out); err != nil {
		return out, err
	}
	return out, d.channels(ctx, c, ws, &out)
}

func (d *demo) token(ctx context.Context, workspace string, user topology.UserID, role string) (token string, err error) {
	err = again(ctx, func(ctx context.Context) error {
		r, err := d.control.IssueToken(ctx, connect.NewRequest(&controlv1.IssueTokenRequest{
			Workspace: workspace, UserId: string(user), Role: role, TtlSeconds: int64(demoTTL.Seconds()),
		}))
		if err == nil {
			token = r.Msg.GetToken()
		}
		return err
	})
	return token, err
}

// people makes the users. The first call also waits until the edge knows the
// workspace's route and the signing key.
func (d *demo) people(ctx context.Context, c *client.Client, ws demoWorkspace, out *WorkspaceInfo) error {
	var want []chat.NewUser
	for i, name := range ws.users {
		want = append(want, chat.NewUser{Name: name, DisplayName: name, Admin: i == 0})
	}
	var made []chat.User
	err := again(ctx, func(ctx context.Context) (err error) {
		made, err = c.PutUsers(ctx, want)
		if problem.Is(err, problem.NotFound) {
			return problem.Wrap(err, problem.Unavailable, "the edge does not know workspace %s yet", ws.slug)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, u := range made {
		token, err := d.token(ctx, ws.slug, u.ID, "member")
		if err != nil {
			return err
		}
		out.Users = append(out.Users, UserInfo{ID: u.ID, Name: u.Name, Token: token})
	}
	return nil
}

// channels makes the channels: everybody is in the first one, and two in each of
// the others.
func (d *demo) channels(ctx context.Context, c *client.Client, ws demoWorkspace, out *WorkspaceInfo) error {
	for i, name := range ws.channels {
		members := out.Users
		if i > 0 {
			members = out.Users[i-1 : i+1]
		}
		req := chat.AdminChannelRequest{Name: name}
		for _, u := range members {
			req.Members = append(req.Members, u.ID)
		}
		err := again(ctx, func(ctx context.Context) error {
			_, err := c.AdminCreateChannel(ctx, req)
			return err
		})
		if err != nil {
			return err
		}
		var ch chat.AdminChannel
		if err := again(ctx, func(ctx context.Context) (err error) { ch, err = c.AdminChannel(ctx, name); return err }); err != nil {
			return err
		}
		out.Channels = append(out.Channels, ChannelInfo{ID: ch.ID, Name: name})
	}
	return nil
}
