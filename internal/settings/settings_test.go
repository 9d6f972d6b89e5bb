package settings_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"parley/internal/settings"
)

type Common struct {
	Dir string `yaml:"dir" doc:"a directory"`
}

type config struct {
	Common `yaml:",inline"`
	Name   string        `yaml:"name" doc:"a name"`
	Wait   time.Duration `yaml:"wait" doc:"a time"`
	Plain  bool          `yaml:"plain_http" doc:"a switch"`
	Many   []string      `yaml:"many" doc:"a list"`
	Count  int           `yaml:"count" doc:"a number"`
	Nested []nested      `yaml:"nested"`
}

type nested struct {
	ID string `yaml:"id"`
}

func load(t *testing.T, file, env string, args ...string) (config, error) {
	t.Helper()
	c := config{Wait: time.Second, Count: 3}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	settings.AddFlags(fs, &c)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	name := ""
	if file != "" {
		name = filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := settings.Load(name, &c, fs, func(key string) string {
		k, v, _ := strings.Cut(env, "=")
		if k == key {
			return v
		}
		return ""
	})
	return c, err
}

func TestLoad_FlagAboveEnvironmentAboveFileAboveDefault(t *testing.T) {
	file := "dir: /d\nname: file\nwait: 2s\nmany: [a, b]\nnested:\n  - id: x\n"
	want := config{Common: Common{"/d"}, Name: "file", Wait: 2 * time.Second, Many: []string{"a", "b"}, Count: 3, Nested: []nested{{"x"}}}
	for _, s := range []struct {
		name, env string
		args      []string
		change    func(*config)
	}{
		{"file", "", nil, func(*config) {}},
		{"environment", "PARLEY_NAME=env", nil, func(c *config) { c.Name = "env" }},
		{"flag", "PARLEY_NAME=env", []string{"--name", "flag"}, func(c *config) { c.Name = "flag" }},
		{"kinds", "PARLEY_MANY=c, d", []string{"--plain-http", "--wait=3s", "--count", "9"}, func(c *config) {
			c.Many, c.Plain, c.Wait, c.Count = []string{"c", "d"}, true, 3*time.Second, 9
		}},
	} {
		t.Run(s.name, func(t *testing.T) {
			got, err := load(t, file, s.env, s.args...)
			if err != nil {
				t.Fatal(err)
			}
			w := want
			s.change(&w)
			if d := cmp.Diff(w, got, cmp.AllowUnexported(config{})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestLoad_NamesWhatIsWrong(t *testing.T) {
	for _, s := range []struct {
		name, file, env string
		args            []string
		want            []string
	}{
		{"unknown key", "name: x\nnam: y\n", "", nil, []string{"nam", "[2:1]"}},
		{"no YAML", "name: [", "", nil, []string{"c.yaml"}},
		{"wrong kind", "count: many\n", "", nil, []string{"[1:8]"}},
		{"environment", "", "PARLEY_WAIT=soon", nil, []string{"PARLEY_WAIT", "soon", "1.5s"}},
		{"flag", "", "", []string{"--count", "x"}, []string{"--count", `"x"`, "number"}},
		{"too big", "name: " + strings.Repeat("x", 1<<20), "", nil, []string{"config", "at most"}},
	} {
		t.Run(s.name, func(t *testing.T) {
			_, err := load(t, s.file, s.env, s.args...)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range s.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}
