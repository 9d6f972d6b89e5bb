package elastic

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"parley/internal/problem"
)

// schema is the version of the mapping. Another one gets indexes of other names, to
// be rebuilt beside the old ones.
const schema = 1

// quarters follows the prefix in the names of all indexes.
const quarters = "-*q*-0*"

// metaKey holds it in the mapping's _meta.
const metaKey = "parley_search_schema"

type object = map[string]any

// template is the index template: what every index of ours is like.
func template(c *Config) io.Reader {
	keyword := func(indexed, values bool) object {
		return object{"type": "keyword", "index": indexed, "doc_values": values}
	}
	number := func(indexed bool) object { return object{"type": "long", "index": indexed} }
	return encoded(object{
		"index_patterns": []string{c.Prefix + quarters},
		"priority":       500,
		"_meta":          object{metaKey: schema},
		"template": object{
			"aliases": object{c.Prefix: object{}},
			"settings": object{
				"number_of_shards": c.Shards, "number_of_replicas": *c.Replicas,
				// Said outright, it goes on while nobody searches: or the first search
				// after a lull would wait for it.
				"refresh_interval": "1s",
			},
			"mappings": object{
				"dynamic":  "strict",
				"_meta":    object{metaKey: schema},
				"_routing": object{"required": true},
				// The message store has the texts.
				"_source": object{"enabled": false},
				"properties": object{
					"place":   keyword(true, false),
					"words":   object{"type": "text", "analyzer": "whitespace", "index_options": "positions"},
					"extras":  keyword(true, false),
					"author":  keyword(true, false),
					"channel": keyword(true, true),
					"private": object{"type": "boolean", "doc_values": false},
					"gone":    object{"type": "boolean", "doc_values": false},
					"ts":      number(true),
					"stamp":   number(true),
					"id":      keyword(false, true),
					"root":    keyword(false, true),
					"seq":     number(false),
				},
			},
		},
	})
}

// aliased is the body that makes an index with its write alias.
func aliased(alias string) io.Reader {
	return encoded(object{"aliases": object{alias: object{"is_write_index": true}}})
}

func encoded(v any) io.Reader {
	b, err := json.Marshal(v)
	if err != nil {
		return bytes.NewReader(nil) // maps of texts and numbers are always JSON
	}
	return bytes.NewReader(b)
}

// schemas are the indexes behind a name with the schema that each says it has; 0 =
// it says none.
func (c *client) schemas(ctx context.Context, name string) (map[string]int, error) {
	var got map[string]struct {
		Mappings struct {
			Meta map[string]json.RawMessage `json:"_meta"`
		} `json:"mappings"`
	}
	err := c.do(ctx, esapi.IndicesGetMappingRequest{Index: []string{name}}, &got)
	if statusOf(err) == http.StatusNotFound {
		return nil, nil
	}
	out := make(map[string]int, len(got))
	for index, m := range got {
		out[index] = versionIn(m.Mappings.Meta)
	}
	return out, err
}

func versionIn(meta map[string]json.RawMessage) (n int) {
	if json.Unmarshal(meta[metaKey], &n) != nil {
		return 0
	}
	return n
}

// foreign says what is wrong with indexes behind a name of ours.
func foreign(found map[string]int, prefix string) error {
	for _, index := range slices.Sorted(maps.Keys(found)) {
		v := found[index]
		switch {
		case index == prefix:
			return problem.New(problem.Invalid, "elasticsearch: there is an index named %s, where an alias has to be: remove it, or choose another prefix", prefix)
		case v == 0:
			return problem.New(problem.Invalid, "elasticsearch: the index %s is not ours: its mapping has no %s; remove it from the alias, or choose another prefix than %s", index, metaKey, prefix)
		case v != schema:
			return problem.New(problem.Invalid, "elasticsearch: the index %s has schema %d, this release reads %d: %s", index, v, schema, advice(v))
		}
	}
	return nil
}

func advice(version int) string {
	if version > schema {
		return "run a newer release, or choose another prefix and rebuild"
	}
	return "choose another prefix, rebuild each workspace, then remove the old indexes"
}

// templateFault says what is wrong with the template that is there.
func (c *client) templateFault(ctx context.Context, name string) error {
	var got struct {
		Templates []struct {
			Template struct {
				Meta map[string]json.RawMessage `json:"_meta"`
			} `json:"index_template"`
		} `json:"index_templates"`
	}
	err := c.do(ctx, esapi.IndicesGetIndexTemplateRequest{Name: name}, &got)
	switch {
	case statusOf(err) == http.StatusNotFound:
		return nil
	case err != nil:
		return problem.Wrap(err, problem.Unavailable, "elasticsearch: can't look at the index template %s: %v", name, err)
	}
	for _, t := range got.Templates {
		switch v := versionIn(t.Template.Meta); {
		case v == 0:
			return problem.New(problem.Invalid, "elasticsearch: there is an index template %s that is not ours: it has no %s in its _meta; remove it, or choose another prefix", name, metaKey)
		case v > schema:
			return problem.New(problem.Invalid, "elasticsearch: the index template %s has schema %d, this release has %d: %s", name, v, schema, advice(v))
		}
	}
	return nil
}
