package chat

import "parley/internal/topology"

// NewUser is a person to be added by an admin.
type NewUser struct {
	Name        string `json:"name" doc:"1 to 80 characters without spaces around; unique in the workspace"`
	DisplayName string `json:"display_name,omitempty"`
	Admin       bool   `json:"admin,omitempty"`
}

// PutUsersRequest is the body of POST /api/v1/admin/users.
type PutUsersRequest struct {
	Users []NewUser `json:"users" doc:"1 to 1,000 people; a name that exists gives the user who has it"`
}

// PutUsersResponse has the users in the order of the request.
type PutUsersResponse struct {
	Users []User `json:"users"`
}

// AdminChannelRequest is the body of POST /api/v1/admin/channels: a channel
// created for others, or, with ImportDigest, one that an import fills before
// anybody sees it.
type AdminChannelRequest struct {
	Name         string            `json:"name"`
	Topic        string            `json:"topic,omitempty"`
	Private      bool              `json:"private,omitempty"`
	CreatedTS    *Timestamp        `json:"created_ts,omitempty" format:"date-time" doc:"imports only; default now"`
	Members      []topology.UserID `json:"members,omitempty" doc:"at most 1,000; not with an import"`
	ImportDigest string            `json:"import_digest,omitempty" doc:"names the file; the same digest finds the channel again"`
}

// AdminChannel is a channel as imports see it.
type AdminChannel struct {
	Channel
	Importing    bool   `json:"importing"`
	ImportDigest string `json:"import_digest,omitempty"`
	Imported     uint64 `json:"imported" doc:"messages imported so far"`
}

// ImportMessage is one message of an import, in order of time.
type ImportMessage struct {
	UserID  topology.UserID `json:"user_id"`
	TS      Timestamp       `json:"ts" format:"date-time"`
	Text    string          `json:"text"`
	RootSeq topology.Seq    `json:"root_seq,omitempty" doc:"the seq of the message replied to; 0 = top-level"`
}

// ImportRequest is the body of POST /api/v1/admin/channels/{id}/import.
type ImportRequest struct {
	From     uint64          `json:"from" doc:"messages imported before this batch; another number is a conflict"`
	Messages []ImportMessage `json:"messages" doc:"1 to 2,000"`
}

// ImportResponse says how many messages of the channel are in.
type ImportResponse struct {
	Imported uint64 `json:"imported"`
}
