// Package settings reads a role's config: defaults, below its file, below the
// environment, below flags. The struct is the one place that names a setting: its
// yaml tag gives the file's key, the variable PARLEY_KEY and the flag --key, its
// doc tag the help.
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/pflag"

	"parley/internal/problem"
)

// fileBytesMax bounds a config file: a cell of eight gateways has some 2 KB.
const fileBytesMax = 1 << 20

// field is one setting that fits on a line: strings, numbers, switches, times and
// lists of strings. What is nested stands in the file only.
type field struct {
	key, doc string
	value    reflect.Value
}

func (f field) flag() string { return strings.ReplaceAll(f.key, "_", "-") }
func (f field) env() string  { return "PARLEY_" + strings.ToUpper(f.key) }

// fields are the settings of the struct that into points to, also of those that
// are inlined in it.
func fields(into any) []field {
	var out []field
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		for i := range v.NumField() {
			t := v.Type().Field(i)
			key, options, _ := strings.Cut(t.Tag.Get("yaml"), ",")
			switch {
			case options == "inline":
				walk(v.Field(i))
			case key != "" && key != "-" && simple(t.Type):
				out = append(out, field{key, t.Tag.Get("doc"), v.Field(i)})
			}
		}
	}
	walk(reflect.ValueOf(into).Elem())
	return out
}

func simple(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64, reflect.Uint64:
		return true
	case reflect.Slice:
		return t.Elem().Kind() == reflect.String
	default:
		return false
	}
}

// AddFlags adds a flag for each setting; its help shows the default that into has.
func AddFlags(fs *pflag.FlagSet, into any) {
	for _, f := range fields(into) {
		usage := f.doc + " ($" + f.env() + ")"
		if now := show(f.value); now != "" && now != "false" && now != "0" {
			usage += "; default " + now
		}
		fs.String(f.flag(), "", usage)
		if f.value.Kind() == reflect.Bool {
			fs.Lookup(f.flag()).NoOptDefVal = "true"
		}
	}
}

// Load reads a config into what into points to, which holds the defaults. The
// file may be "".
func Load(file string, into any, flags *pflag.FlagSet, env func(string) string) error {
	if file != "" {
		if err := loadFile(file, into); err != nil {
			return err
		}
	}
	var faults []error
	for _, f := range fields(into) {
		if v := env(f.env()); v != "" {
			faults = append(faults, f.set("$"+f.env(), v))
		}
		if flag := flags.Lookup(f.flag()); flag != nil && flag.Changed {
			faults = append(faults, f.set("--"+f.flag(), flag.Value.String()))
		}
	}
	return errors.Join(faults...)
}

func loadFile(file string, into any) error {
	info, err := os.Stat(file)
	if err == nil && info.Size() > fileBytesMax {
		return problem.Field("config", "%s has %d bytes; a config has at most %d", file, info.Size(), fileBytesMax)
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return problem.Field("config", "there is no file %s", file)
	}
	if err != nil {
		return problem.Wrap(err, problem.Invalid, "config: %s can't be read", file)
	}
	if err := yaml.UnmarshalWithOptions(b, into, yaml.Strict()); err != nil {
		return problem.Wrap(err, problem.Invalid, "%s: %s", file, strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	return nil
}

func (f field) set(from, v string) error {
	wrong := func(want string) error { return problem.Field(from, "%q is not %s", v, want) }
	switch {
	case f.value.Type() == reflect.TypeFor[time.Duration]():
		d, err := time.ParseDuration(v)
		if err != nil {
			return wrong("a duration such as 1.5s")
		}
		f.value.SetInt(int64(d))
	case f.value.Kind() == reflect.String:
		f.value.SetString(v)
	case f.value.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(v)
		if err != nil {
			return wrong("true or false")
		}
		f.value.SetBool(b)
	case f.value.Kind() == reflect.Uint64:
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return wrong("a number")
		}
		f.value.SetUint(n)
	case f.value.Kind() == reflect.Slice:
		list := reflect.MakeSlice(f.value.Type(), 0, 0)
		for s := range strings.SplitSeq(v, ",") {
			list = reflect.Append(list, reflect.ValueOf(strings.TrimSpace(s)).Convert(f.value.Type().Elem()))
		}
		f.value.Set(list)
	default:
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return wrong("a number")
		}
		f.value.SetInt(n)
	}
	return nil
}

func show(v reflect.Value) string {
	if v.Kind() == reflect.Slice {
		return ""
	}
	return fmt.Sprint(v.Interface())
}
