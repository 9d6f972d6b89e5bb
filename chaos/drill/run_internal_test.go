package drill

import (
	"slices"
	"testing"
)

// Cells on embedded stores have no engines to break, and the other way round.
func TestConfig_DrillsSuitTheStores(t *testing.T) {
	has := func(ds []Drill, name string) bool {
		return slices.ContainsFunc(ds, func(d Drill) bool { return d.Name == name })
	}
	for script, want := range map[string]map[string]bool{
		"":                      {"gateway-crash": true, "disk-full": true, "redis-kill": false},
		"tools/engines/engines": {"gateway-crash": true, "disk-full": false, "redis-kill": true},
	} {
		ds, err := Config{Engines: script}.drills()
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range want {
			if has(ds, name) != want {
				t.Errorf("engines %q, drill %s: %v", script, name, !want)
			}
		}
	}
	if _, err := (Config{Only: []string{"redis-kill"}}).drills(); err == nil {
		t.Error("a drill of engines is taken without any")
	}
}
