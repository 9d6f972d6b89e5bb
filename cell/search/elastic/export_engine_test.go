//go:build engines

package elastic

import (
	"time"

	"parley/cell/search"
)

// BulkBody is a bulk as Put sends it, ready.
func BulkBody(alias string, docs []search.Doc) string {
	var b bulk
	for i := range docs {
		d := &docs[i]
		a := action{Index: alias, ID: placeOf(d.Channel.Place) + "/" + string(d.ID), Routing: string(d.Channel.Workspace), Version: uint64(d.Version), VersionType: notOlder, RequireAlias: true}
		if err := b.add(line{Index: &a}, d.ID, documentOf(d, time.Now())); err != nil {
			return ""
		}
	}
	return b.body.String()
}
