package problem

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
)

// Document is an RFC 9457 problem document, with Parley's extensions kind,
// field and outcome.
type Document struct {
	Type    string `json:"type" doc:"urn:parley:problem: followed by the kind"`
	Title   string `json:"title" doc:"the status in words"`
	Status  int    `json:"status" doc:"the HTTP status"`
	Detail  string `json:"detail,omitempty" doc:"what is wrong and how to mend it"`
	Kind    Kind   `json:"kind" doc:"stable name of the kind of error"`
	Field   string `json:"field,omitempty" doc:"the field at fault"`
	Outcome string `json:"outcome,omitempty" enum:"not_done,unknown" doc:"for 503: whether the change may have been made"`
}

// DocumentOf is the document that shows err.
func DocumentOf(err error) Document {
	k := KindOf(err)
	d := Document{
		Type: "urn:parley:problem:" + string(k), Title: http.StatusText(k.Status()), Status: k.Status(),
		Detail: Show(err), Kind: k,
	}
	if e, ok := errors.AsType[*Error](err); ok {
		d.Field = e.Field
	}
	switch k {
	case Unavailable:
		d.Outcome = "not_done"
	case Unknown:
		d.Outcome = "unknown"
	default: // the kind says it
	}
	return d
}

// Error makes a document an error: the client library returns it.
func (d *Document) Error() string { return string(d.Kind) + ": " + d.Detail }

// GetStatus is the HTTP status, as huma asks for it.
func (d *Document) GetStatus() int { return d.Status }

// ContentType is that of problem documents, as huma asks for it.
func (d *Document) ContentType(string) string { return "application/problem+json" }

// Write answers an HTTP request with err's document, and Retry-After (whole
// seconds, rounded up) where err says it or the status calls for one.
func Write(w http.ResponseWriter, err error) {
	d := DocumentOf(err)
	w.Header().Set("Content-Type", d.ContentType(""))
	if s := RetryAfterSeconds(err); s > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(s))
	}
	w.WriteHeader(d.Status)
	_ = json.NewEncoder(w).Encode(d) // the peer may be gone; nothing to do about it
}

// RetryAfterSeconds is what Retry-After should say about err; 0 = no header.
func RetryAfterSeconds(err error) int {
	var e *Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		return int(math.Ceil(e.RetryAfter.Seconds()))
	}
	if s := KindOf(err).Status(); s == http.StatusServiceUnavailable || s == http.StatusTooManyRequests {
		return 1
	}
	return 0
}
