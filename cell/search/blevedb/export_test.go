package blevedb

import (
	"time"

	"github.com/blevesearch/bleve/v2/document"

	"parley/cell/search"
)

// DocumentOf is a document as it is handed to scorch.
func DocumentOf(d *search.Doc) *document.Document { return documentOf(d, time.Now()) }
