package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// asJSON reports whether -o json was given.
func asJSON(cmd *cobra.Command) (bool, error) {
	switch v := cmd.Flags().Lookup("output").Value.String(); v {
	case "json":
		return true, nil
	case "table":
		return false, nil
	default:
		return false, usage("--output: must be table or json, not %q", v)
	}
}

// table is rows under a head; the cells of the head are in capitals.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// show prints an answer of the control plane: whole as JSON, or as a table.
func show(cmd *cobra.Command, msg proto.Message, t table) error {
	j, err := asJSON(cmd)
	if err != nil {
		return err
	}
	if j {
		b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true, Multiline: true}.Marshal(msg)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), string(b))
		return err
	}
	return t.print(cmd)
}

// showJSON prints anything else.
func showJSON(cmd *cobra.Command, v any, t table) error {
	j, err := asJSON(cmd)
	if err != nil {
		return err
	}
	if j {
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	return t.print(cmd)
}

func (t *table) print(cmd *cobra.Command) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	if len(t.head) > 0 {
		fmt.Fprintln(w, strings.Join(t.head, "\t"))
	}
	for _, r := range t.rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

func when(us int64) string {
	if us == 0 {
		return "-"
	}
	return time.UnixMicro(us).UTC().Format("2006-01-02 15:04:05")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func limit(n int64) string {
	if n == 0 {
		return "no limit"
	}
	return strconv.FormatInt(n, 10)
}
