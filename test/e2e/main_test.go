//go:build e2e

// Package e2e_test runs the built program as people run it, and looks at it from
// the outside: command line, HTTP, sockets, signals.
package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"parley/client"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// info is dev.json as its readers see it.
type info struct {
	Edges []struct {
		Region string `json:"region"`
		URL    string `json:"url"`
	} `json:"edges"`
	Control       []string `json:"control"`
	OperatorToken string   `json:"operator_token"`
	Workspaces    []struct {
		ID       topology.WorkspaceID `json:"id"`
		Slug     string               `json:"slug"`
		Cell     string               `json:"cell"`
		Channels []struct {
			ID   topology.ChannelID `json:"id"`
			Name string             `json:"name"`
		} `json:"channels"`
		Users []struct {
			ID    topology.UserID `json:"id"`
			Name  string          `json:"name"`
			Token string          `json:"token"`
		} `json:"users"`
	} `json:"workspaces"`
}

// dev is one run of `parley dev`.
type dev struct {
	dir  string
	cmd  *exec.Cmd
	done chan error
	info info
}

const (
	startMax = 60 * time.Second // 10 s on a machine that has nothing else to do
	stopMax  = 40 * time.Second
	stepMax  = 2 * time.Minute
)

func binary(t *testing.T) string {
	t.Helper()
	b, err := filepath.Abs("../../bin/parley")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b); err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	return b
}

// start runs `parley dev` on a data directory and waits until it says it is up.
func start(t *testing.T, dir string) *dev {
	t.Helper()
	d := &dev{dir: dir, done: make(chan error, 1)}
	d.cmd = exec.Command(binary(t), "dev", "--data", dir, "--port-base", "0")
	logs, err := os.OpenFile(filepath.Join(t.TempDir(), "dev.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stderr = logs
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.kill(); _ = logs.Close() })
	up := make(chan struct{})
	go func() {
		s := bufio.NewScanner(out)
		for s.Scan() {
			if strings.Contains(s.Text(), "Parley is up") {
				close(up)
			}
		}
		d.done <- d.cmd.Wait()
	}()
	select {
	case <-up:
	case err := <-d.done:
		d.done <- err
		t.Fatalf("parley dev ended: %v\n%s", err, tail(logs.Name()))
	case <-time.After(startMax):
		t.Fatalf("parley dev is not up after %s\n%s", startMax, tail(logs.Name()))
	}
	t.Logf("up after %s", time.Since(began).Round(time.Millisecond))
	b, err := os.ReadFile(filepath.Join(dir, "dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &d.info); err != nil {
		t.Fatal(err)
	}
	return d
}

func tail(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-8<<10):])
}

// stop ends it as Ctrl-C does and wants a clean end.
func (d *dev) stop(t *testing.T) {
	t.Helper()
	began := time.Now()
	if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-d.done:
		d.done <- err
		if err != nil {
			t.Errorf("Ctrl-C ended it with %v", err)
		}
		t.Logf("stopped after %s", time.Since(began).Round(time.Millisecond))
	case <-time.After(stopMax):
		t.Fatalf("it still runs %s after Ctrl-C", stopMax)
	}
}

// kill ends it as kill -9 does.
func (d *dev) kill() {
	_ = d.cmd.Process.Kill() // it may have ended
	err := <-d.done
	d.done <- err
}

// run runs a command to its end and returns what it printed.
func (d *dev) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stepMax)
	defer cancel()
	cmd := d.command(ctx, t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = errors.Join(err, errors.New(errs.String()))
	}
	return out.String(), err
}

func (d *dev) command(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, binary(t), args...)
	cmd.Env = append(os.Environ(), "PARLEY_DEV="+filepath.Join(d.dir, "dev.json"))
	return cmd
}

// must is run for commands that have to succeed; with out, their JSON.
func (d *dev) must(t *testing.T, out any, args ...string) string {
	t.Helper()
	text, err := d.run(t, args...)
	if err != nil {
		t.Fatalf("parley %s: %v", strings.Join(args, " "), err)
	}
	if out != nil {
		if err := json.NewDecoder(strings.NewReader(text)).Decode(out); err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("parley %s printed no JSON: %v\n%s", strings.Join(args, " "), err, text)
		}
	}
	return text
}

// as is a client of a user of a workspace at an edge.
func (d *dev) as(t *testing.T, workspace, user, edge int) *client.Client {
	t.Helper()
	return d.with(t, d.info.Workspaces[workspace].Users[user].Token, edge)
}

func (d *dev) with(t *testing.T, token string, edge int) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: d.info.Edges[edge].URL, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func step(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stepMax)
	t.Cleanup(cancel)
	return ctx
}

// history is all top-level messages of a channel, oldest first.
func history(t *testing.T, c *client.Client, ch topology.ChannelID) []chat.Message {
	t.Helper()
	var all []chat.Message
	for after := topology.MessageID("0"); ; {
		page, err := c.After(step(t), ch, after, chat.PageMax)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.Messages...)
		if !page.HasMore {
			return all
		}
		after = all[len(all)-1].MessageID
	}
}
