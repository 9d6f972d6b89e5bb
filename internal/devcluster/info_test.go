package devcluster_test

import (
	"bytes"
	"strings"
	"testing"

	"parley/internal/devcluster"
)

func TestInfo_CommandsWorkWhereTheyArePrinted(t *testing.T) {
	info := devcluster.Info{
		Edges:      []devcluster.EdgeInfo{{Region: "eu"}},
		Workspaces: []devcluster.WorkspaceInfo{{Slug: "acme", Users: []devcluster.UserInfo{{Name: "ann"}, {Name: "bob"}}}},
	}
	for dir, want := range map[string]string{
		"data":         "--user ann --region eu\n",
		"./data":       "--user ann --region eu\n",
		"/var/parley/": "--user ann --region eu --dev-file /var/parley/dev.json\n",
	} {
		var out bytes.Buffer
		info.Print(&out, dir)
		if !strings.Contains(out.String(), want) {
			t.Errorf("with --data %s, %q is not in\n%s", dir, want, out.String())
		}
	}
}
