package api

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"parley/internal/problem"
)

// documentErrors makes huma's own errors (a body that is no JSON, a number that
// is none) problem documents of ours. huma offers a package variable for this;
// every cell of a process sets it to the same function.
var documentErrors = sync.OnceFunc(func() { //nolint:gochecknoglobals // once per process, see above
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return documentOf(status, msg, errs)
	}
})

func documentOf(status int, msg string, errs []error) *problem.Document {
	kind := problem.KindForStatus(status)
	if status == http.StatusUnprocessableEntity || status == http.StatusUnsupportedMediaType {
		kind = problem.Invalid
	}
	d := problem.DocumentOf(problem.New(kind, "%s", msg))
	for _, err := range errs {
		var detail *huma.ErrorDetail
		if !errors.As(err, &detail) {
			continue
		}
		d.Field = fieldOf(detail.Location)
		why := detail.Message
		if name, ok := missing(why); ok {
			if d.Field != "" {
				name = d.Field + "." + name
			}
			d.Field, why = name, "is missing"
		}
		d.Detail = msg + ": " + why
		if d.Field != "" {
			d.Detail = d.Field + ": " + why
		}
		break
	}
	return &d
}

// fieldOf turns huma's "body.text" or "query.limit" into the field's own name.
func fieldOf(location string) string {
	_, field, ok := strings.Cut(location, ".")
	if !ok {
		return ""
	}
	return field
}

// missing is the name of the field that huma says is not there.
func missing(message string) (string, bool) {
	name, ok := strings.CutPrefix(message, "expected required property ")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(name, " to be present")
}

// failure is err as huma writes it.
func failure(err error) error {
	d := problem.DocumentOf(err)
	if s := problem.RetryAfterSeconds(err); s > 0 {
		return huma.ErrorWithHeaders(&d, http.Header{"Retry-After": {strconv.Itoa(s)}})
	}
	return &d
}
