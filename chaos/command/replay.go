// Package command is the commands about load, drills and their checks.
package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"parley/chaos/history"
	"parley/chaos/swarm"
	"parley/internal/cli"
	"parley/internal/problem"
	"parley/internal/slack"
)

// Replay is `parley bench replay`.
func Replay() *cobra.Command {
	var r replay
	cmd := &cobra.Command{
		Use: "replay FILE.zip --people FILE", Short: "Play a community's conversations through real client sockets",
		Long: "replay reads a Slack export and has the people that `parley seed -o json` made say its messages: each in its time,\n" +
			"--speed times faster, threads and all, over all edges in turn. It ends with a table of what was posted and how long it took;\n" +
			"--history writes down everything that every client saw, for `parley check`.",
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	f.StringVar(&r.people, "people", "", "what `parley seed -o json` said (required)")
	f.Float64Var(&r.speed, "speed", 60, "how many times faster than it was")
	f.BoolVar(&r.flatOut, "flat-out", false, "as fast as the answers come, whatever the lines' times: none is left unsaid")
	f.DurationVar(&r.length, "for", time.Minute, "how long; 0 = to the end of the export")
	f.StringVar(&r.history, "history", "", "file for the clients' histories; must not exist")
	f.StringVar(&r.key, "key", history.DefaultKey, "key of the seals in the messages; `parley check --key` takes the same")
	f.DurationVar(&r.opMax, "op-max", 30*time.Second, "after which a post without an answer counts as unknown")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return r.run(cmd, args[0]) }
	return cmd
}

type replay struct {
	people, history, key string
	speed                float64
	flatOut              bool
	length, opMax        time.Duration
}

func (r replay) run(cmd *cobra.Command, file string) error {
	if r.people == "" {
		return problem.Field("--people", "is missing: `parley seed -o json` makes it")
	}
	edges, tls, err := cli.EdgesOf(cmd)
	if err != nil {
		return err
	}
	who, err := loadPeople(r.people, edges)
	if err != nil {
		return err
	}
	export, err := slack.Open(file, time.Now())
	if err != nil {
		return err
	}
	rec := history.NewRecorder(io.Discard, nil)
	if r.history != "" {
		if rec, err = history.Create(r.history); err != nil {
			return problem.Wrap(err, problem.Invalid, "--history: %v", err)
		}
	}
	s, err := swarm.New(swarm.Config{
		People: who, Script: swarm.Replay(export), Speed: r.speed, FlatOut: r.flatOut, History: rec, Seal: history.NewSealer(r.key), TLS: tls, OpMax: r.opMax,
	})
	if err != nil {
		return err
	}
	return r.play(cmd, s, rec)
}

// loadPeople reads who talks; their edges are taken in turns.
func loadPeople(file string, edges []string) ([]swarm.Person, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "--people: %v", err)
	}
	in, err := swarm.ReadSeeded(b)
	if err != nil {
		return nil, problem.Field("--people", "%s: %s", file, problem.Show(err))
	}
	return in.People(history.RoleSwarm, func(i int) (out []string) {
		for n := range edges {
			out = append(out, edges[(i+n)%len(edges)])
		}
		return out
	}), nil
}

// play runs the swarm with a line of progress, and says how it went.
func (r replay) play(cmd *cobra.Command, s *swarm.Swarm, rec *history.Recorder) error {
	ctx, hangUp := context.WithCancel(cmd.Context())
	defer hangUp()
	talk, silence := context.WithCancel(ctx)
	if r.length > 0 {
		talk, silence = context.WithTimeout(ctx, r.length)
	}
	defer silence()
	done := make(chan struct{})
	began := time.Now()
	go func() { s.Run(ctx, talk); close(done) }()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for talk.Err() == nil && !s.Recited() {
		select {
		case <-t.C:
		case <-talk.Done():
		}
		p := s.Progress("")
		fmt.Fprintf(cmd.ErrOrStderr(), "\r%s  %d sockets  %d posted  %d unknown  %d refused  %d events  p50 %s  p99 %s ",
			time.Since(began).Round(time.Second), p.Open, p.OK, p.Unknown, p.Failed, p.Frames, us(p.P50US), us(p.P99US))
	}
	silence()
	untilQuiet(ctx, s)
	fmt.Fprintln(cmd.ErrOrStderr())
	took := time.Since(began)
	rec.Add(history.Record{Kind: history.End})
	hangUp()
	<-done
	if r.history != "" {
		if err := s.Conclude(context.WithoutCancel(cmd.Context())); err != nil {
			return err
		}
	}
	if err := rec.Close(); err != nil {
		return err
	}
	return r.say(cmd, s.Progress(""), took)
}

func (r replay) say(cmd *cobra.Command, p swarm.Progress, took time.Duration) error {
	out := struct {
		swarm.Progress
		Seconds   float64 `json:"seconds"`
		PostsPerS float64 `json:"posts_per_s"`
	}{p, took.Seconds(), float64(p.OK) / took.Seconds()}
	if format, err := cmd.Flags().GetString("output"); err == nil && format == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(out)
	}
	rows := []string{
		fmt.Sprintf("posted    %d (%.0f a second)", p.OK, out.PostsPerS),
		fmt.Sprintf("unknown   %d", p.Unknown), fmt.Sprintf("refused   %d", p.Failed),
		fmt.Sprintf("unsaid    %d of %d lines: their speakers were still busy", p.Unsaid, p.Scripted),
		fmt.Sprintf("events    %d", p.Frames),
		fmt.Sprintf("post      p50 %s  p99 %s  max %s", us(p.P50US), us(p.P99US), us(p.MaxUS)),
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(rows, "\n"))
	return err
}

func us(n int64) string {
	return (time.Duration(n) * time.Microsecond).Round(10 * time.Microsecond).String()
}

// untilQuiet waits, for a bounded time, until what is on its way has arrived.
func untilQuiet(ctx context.Context, s *swarm.Swarm) {
	const quietFor, quietMax = time.Second, 30 * time.Second
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	began, last, since := time.Now(), int64(-1), time.Now()
	for time.Since(began) < quietMax && ctx.Err() == nil {
		<-t.C
		if now := s.Progress("").Frames; now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) >= quietFor && s.Idle() {
			return
		}
	}
}
