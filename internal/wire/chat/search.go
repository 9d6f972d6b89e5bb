package chat

// Highlight is where in a text one of the words looked for is.
type Highlight struct {
	Start int `json:"start" doc:"first character: counted in Unicode code points, from 0"`
	End   int `json:"end" doc:"the character behind the last"`
}

// FoundMessage is a message that a search found.
type FoundMessage struct {
	Message
	Highlights []Highlight `json:"highlights" doc:"rising, at most 100"`
}

// SearchPage answers GET /api/v1/search. There is no total: it would count what
// the asker may not see.
type SearchPage struct {
	Messages    []FoundMessage `json:"messages"`
	HasMore     bool           `json:"has_more"`
	NextCursor  string         `json:"next_cursor,omitempty" doc:"for the next page; with has_more"`
	Degraded    bool           `json:"degraded,omitempty" doc:"the index was away: only the newest messages of the caller's channels were looked at, newest first"`
	CoveredFrom *Timestamp     `json:"covered_from,omitempty" format:"date-time" doc:"with degraded: what is older may be missing"`
}

// RebuildRequest is the body of POST /api/v1/admin/search/rebuild.
type RebuildRequest struct {
	Cursor string `json:"cursor,omitempty" doc:"of the answer before; none begins"`
}

// RebuildResponse says how far a rebuild has come: it goes on when it is asked for
// with the cursor again, until it is done.
type RebuildResponse struct {
	Cursor   string `json:"cursor,omitempty"`
	Done     bool   `json:"done"`
	Channels int    `json:"channels" doc:"gone through so far"`
	Messages int    `json:"messages" doc:"indexed so far"`
	Removed  int    `json:"removed" doc:"taken out of the index, as the workspace has them no more"`
}
