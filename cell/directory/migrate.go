package directory

import (
	"context"
	"database/sql"
	"embed"
	"io"
	"io/fs"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the tables up to date.
func migrate(ctx context.Context, dialect goose.Dialect, db *sql.DB, from fs.FS, options ...goose.ProviderOption) error {
	sub, err := fs.Sub(from, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(dialect, db, sub, options...)
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// edited is a file system whose files are read through an edit.
type edited struct {
	fs.FS
	edit *strings.Replacer
}

// Open opens a file.
func (e edited) Open(name string) (fs.File, error) {
	f, err := e.FS.Open(name)
	if err != nil || !strings.HasSuffix(name, ".sql") {
		return f, err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		_ = f.Close() // the failure is what to report
		return nil, err
	}
	return editedFile{f, strings.NewReader(e.edit.Replace(string(b)))}, nil
}

type editedFile struct {
	fs.File
	text *strings.Reader
}

func (f editedFile) Read(p []byte) (int, error) { return f.text.Read(p) }
