package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"parley/controlplane/controltest"
	"parley/internal/cli"
)

func TestMain(m *testing.M) {
	// Clients' connections end with the servers, a moment after the last test.
	goleak.VerifyTestMain(m)
}

// ran is how a command line went.
type ran struct {
	code      int
	out, errs string
}

func parley(t *testing.T, args ...string) ran {
	t.Helper()
	var out, errs bytes.Buffer
	code := cli.Run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return ran{code, out.String(), errs.String()}
}

// step is one command line of a story: its exit code, and what it says. Output is
// a regular expression over standard output, said one over standard error.
type step struct {
	args         string
	code         int
	output, said string
}

func (s step) run(t *testing.T) ran {
	t.Helper()
	r := parley(t, strings.Fields(s.args)...)
	if r.code != s.code || !regexp.MustCompile(s.output).MatchString(r.out) || !regexp.MustCompile(s.said).MatchString(r.errs) {
		t.Errorf("parley %s: exit %d, want %d\nout: %s\nwant: %s\nerr: %s\nwant: %s", s.args, r.code, s.code, r.out, s.output, r.errs, s.said)
	}
	return r
}

// begin sets the environment to a running control plane with a region and a cell.
func begin(t *testing.T) *controltest.Cluster {
	t.Helper()
	t.Setenv("PARLEY_DEV", "")
	t.Setenv("PARLEY_EDGE", "")
	c := controltest.Start(t)
	var urls []string
	for _, n := range c.Nodes {
		urls = append(urls, n.URL())
	}
	t.Setenv("PARLEY_CONTROL", strings.Join(urls, ","))
	t.Setenv("PARLEY_TOKEN", controltest.Secret)
	t.Setenv("PARLEY_CA", filepath.Join(c.CADir, "ca.pem"))
	return c
}

func TestOperatorsCommands(t *testing.T) {
	c := begin(t)
	etcd := c.Etcd("eu")
	etcd.Cell("eu-1")
	file := filepath.Join(t.TempDir(), "snap")
	for _, s := range []step{
		{"region create eu --dry-run --etcd " + etcd.Addr(), 0, `^REGION +ETCD +CREATED +VERSION\neu +127\S+ +- +0\n$`, `^dry run: region eu created\n$`},
		{"region list", 0, `^REGION +ETCD +CREATED +VERSION\n$`, `^$`},
		{"region create eu --etcd " + etcd.Addr(), 0, `\neu +127`, `^region eu created \(audit A\w{26}\)\n$`},
		{"region create eu --etcd " + etcd.Addr(), 4, `^$`, `^error: region eu exists\n$`},
		{"region create Eu --etcd h:1", 2, `^$`, `region\.id`},
		{"region create us --if-version 3 --etcd h:1", 2, `^$`, `expected_version`},
		{"region list", 0, `\neu +127\S+ +20\d\d-`, `^$`},
		{"region show eu", 0, `\neu `, `^$`},
		{"region show us", 3, `^$`, `^error: there is no region "us"\n$`},
		{"cell create eu-1 --region eu --max-workspaces 5", 0, `^CELL.*\neu-1 +eu +active +0 +5 +- +- +silent`, `created \(audit`},
		{"cell create eu-2 --region eu", 0, `no limit`, ``},
		{"cell list", 0, `eu-1(.|\n)*eu-2`, `^$`},
		{"cell show eu-1", 0, `\neu-1 `, `^$`},
		{"cell cordon eu-2 --dry-run", 0, `cordoned`, `^dry run`},
		{"cell cordon eu-2 --if-version 1", 4, `^$`, `look again`},
		{"cell cordon eu-2", 0, `cordoned`, `eu-2 is cordoned`},
		{"cell cordon eu-3", 3, `^$`, ``},
		{"workspace create --slug acme --region eu", 0, `^ID +SLUG(.|\n)*W\w{26} +acme +acme +eu +eu-1 +1 +active`, `placed in eu-1 \(audit`},
		{"workspace create --slug dry --region eu --dry-run", 0, `eu-1`, `^dry run`},
		{"workspace create --slug acme --region eu", 4, `^$`, `exists`},
		{"workspace create --slug none --region eu --pin eu-2", 4, `^$`, `no cell may take`},
		{"workspace create --slug none --region us", 2, `^$`, `home_region`},
		{"workspace create --slug solo --region eu --anti-affinity g --wait 0", 0, `solo`, ``},
		{"workspace list", 0, `acme`, `^$`},
		{"workspace show acme", 0, ` acme `, `^$`},
		{"workspace show nobody", 3, `^$`, `^error`},
		{"workspace why acme", 0, `^CELL +VERDICT(.|\n)*eu-1 +best, it is here(.|\n)*eu-2 +no`, `^$`},
		{"workspace token acme --user U1 --ttl 1h", 0, `^[\w-]+\.[\w-]+\.[\w-]+\n$`, `^$`},
		{"workspace token acme", 2, `^$`, `user`},
		{"cell uncordon eu-2", 0, `active`, `eu-2 is active`},
		{"raft list-peers", 0, `^NODE(.|\n)*n1 (.|\n)*n3 `, `^$`},
		{"raft snapshot save " + file, 0, `^$`, `bytes saved to`},
		{"raft snapshot restore " + file, 2, `^$`, `--yes`},
		{"raft snapshot restore --yes " + file, 0, ``, `^restored \(audit`},
		{"raft snapshot restore --yes " + file + "x", 2, ``, `no such file`},
		{"token create ann --dry-run", 0, `^\n$`, `^dry run`},
		{"token create ann", 0, `^pot_\w+\n$`, `created \(audit`},
		{"token list", 0, `^ID +NAME(.|\n)*ann`, `^$`},
		{"token revoke O1", 3, `^$`, `^error`},
		{"audit --limit 3", 0, `^WHEN +WHO +FROM(.|\n)*bootstrap +127\.0\.0\.1 +operator_token\.create`, `^$`},
		{"audit --limit 1001", 2, `^$`, `page\.size`},
		{"status", 0, `^NODE +ROLE +LEADER +APPLIED`, `^$`},
		{"raft transfer-leader --to n9", 3, `^$`, `no node`},
	} {
		s.run(t)
	}
	c.Leader()
	step{"raft transfer-leader", 0, `^$`, `handed over`}.run(t)
	c.Leader()
	c.Await("the new leader answers", func() bool { return parley(t, "region", "list").code == 0 })
	asJSON(t)
	step{"status --token wrong", 1, `^$`, `operator token`}.run(t)
	step{"status --control https://127.0.0.1:1," + c.Nodes[2].URL(), 0, `n3`, ``}.run(t)
}

// asJSON runs what has an answer of its own with -o json.
func asJSON(t *testing.T) {
	t.Helper()
	for command, want := range map[string]string{
		"region list": "regions", "region show eu": "etcd_endpoints", "region create j --dry-run --etcd h:1": "done",
		"cell list": "cells", "cell show eu-1": "capacity", "cell create j --region eu --dry-run": "done", "cell cordon eu-1 --dry-run": "done",
		"workspace list": "workspaces", "workspace show acme": "epoch", "workspace why acme": "verdicts", "workspace token acme --user U1": "token",
		"workspace create --slug j --region eu --dry-run": "verdicts", "raft list-peers": "peers", "token list": "tokens",
		"token create j --dry-run": "operator_token", "audit": "entries", "status": "applied_index",
	} {
		r := parley(t, append(strings.Fields(command), "-o", "json")...)
		var answer map[string]json.RawMessage
		if err := json.Unmarshal([]byte(r.out), &answer); err != nil || answer[want] == nil || r.code != 0 {
			t.Errorf("parley %s -o json: exit %d, %v, no %q in %s\n%s", command, r.code, err, want, r.out, r.errs)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, name := range []string{"PARLEY_CONTROL", "PARLEY_TOKEN", "PARLEY_CA", "PARLEY_EDGE", "PARLEY_DEV"} {
		t.Setenv(name, "")
	}
	t.Chdir(t.TempDir()) // no data/dev.json
	broken := filepath.Join(t.TempDir(), "dev.json")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range []step{
		{"", 0, `Start with`, `^$`},
		{"nothing", 2, `^$`, `parley has no command "nothing"`},
		{"regio", 2, `^$`, `Did you mean region\?`},
		{"region", 0, `Regions`, `^$`},
		{"region nothing", 2, `^$`, `parley region has no command "nothing"`},
		{"region show", 2, `^$`, `parley region show takes REGION: 0 given`},
		{"region list x", 2, `^$`, `takes no arguments: 1 given`},
		{"region list --bogus", 2, `^$`, `unknown flag: --bogus`},
		{"cell create x --max-workspaces many", 2, `^$`, `max-workspaces`},
		{"status", 2, `^$`, `--control`},
		{"status --control https://h:1", 2, `^$`, `--token`},
		{"status -o xml", 2, `^$`, `table or json`},
		{"status --ca /nowhere", 2, `^$`, `--ca`},
		{"status --ca " + broken, 2, `^$`, `no certificate`},
		{"status --control https://127.0.0.1:1 --token x", 5, `^$`, `no control-plane node answers`},
		{"status --control 127.0.0.1:1 --token x", 2, `^$`, `https://host:port`},
		{"status --dev-file /nowhere", 3, `^$`, `parley dev`},
		{"status --dev-file " + broken, 2, `^$`, `no dev.json`},
		{"chat", 2, `^$`, `who are you`},
		{"seed", 2, `^$`, `--workspace`},
		{"seed --workspace w --users 0", 2, `^$`, `--users`},
		{"import slack x.zip", 2, `^$`, `--workspace`},
		{"import slack", 2, `^$`, `takes FILE`},
		{"dev --log loud", 2, `^$`, `--log`},
		{"completion bash", 0, `parley`, `^$`},
		{"completion zsh", 0, `parley`, `^$`},
		{"completion fish", 0, `parley`, `^$`},
		{"completion bash x", 2, `^$`, `no arguments`},
		{"completion tcsh", 2, `^$`, `no command "tcsh"`},
	} {
		s.run(t)
	}
}
