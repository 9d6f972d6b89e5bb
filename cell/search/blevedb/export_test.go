package blevedb

import (
	"time"

	"github.com/blevesearch/bleve/v2/document"

	"parley/cell/search"
)

// DocumentOf is a document as it is handed to scorch.
func DocumentOf(d *search.Doc) *document.Document { return documentOf(d, time.Now()) }

// Break has the one open index panic at its next use.
func (d *DB) Break() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.parts {
		if err := p.engine.Close(); err != nil {
			return err
		}
		p.engine = nil
	}
	return nil
}
