package api

import (
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"parley/internal/wire/chat"
)

// documentEdge adds to the document what the edge answers itself, so that users
// find the whole API in one place.
func documentEdge(doc huma.API) {
	spec := doc.OpenAPI()
	add := func(method, path, id, summary string, status string, body any) {
		schema := spec.Components.Schemas.Schema(reflect.TypeOf(body), true, "")
		spec.AddOperation(&huma.Operation{
			OperationID: id, Method: method, Path: path, Summary: summary,
			Responses: map[string]*huma.Response{status: {
				Description: summary, Content: map[string]*huma.MediaType{"application/json": {Schema: schema}},
			}},
		})
	}
	add(http.MethodPost, "/api/v1/tickets", "create-ticket", "A one-time ticket for /connect, good for 30 s", "201", chat.TicketResponse{})
	add(http.MethodGet, "/api/v1/edges", "list-edges", "The edges, to probe and to know the next", "200", chat.EdgesResponse{})
	spec.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", BearerFormat: "JWT"},
	}
	spec.Security = []map[string][]string{{"token": {}}}
}
