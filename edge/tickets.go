package edge

import (
	"crypto/rand"
	"sync"
	"time"

	"parley/internal/problem"
	"parley/internal/token"
)

const (
	// ticketLife is how long a ticket may be used: once, by this edge.
	ticketLife = 30 * time.Second
	// ticketsMax bounds the tickets that wait for their use: 3,000 a second.
	ticketsMax = 100_000
)

// tickets are one-time words for /connect, so that a long-lived token need not
// stand in a URL, where proxies log it.
type tickets struct {
	mu   sync.Mutex
	open map[string]ticket
}

type ticket struct {
	claims  token.Claims
	expires time.Time
}

func newTickets() *tickets { return &tickets{open: map[string]ticket{}} }

func (t *tickets) issue(c token.Claims, now time.Time) (string, time.Time, error) {
	word, expires := rand.Text(), now.Add(ticketLife)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) >= ticketsMax {
		for w, k := range t.open {
			if now.After(k.expires) {
				delete(t.open, w)
			}
		}
	}
	if len(t.open) >= ticketsMax {
		return "", time.Time{}, &problem.Error{Kind: problem.Exhausted, Msg: "too many tickets wait for their use", RetryAfter: ticketLife}
	}
	t.open[word] = ticket{claims: c, expires: expires}
	return word, expires, nil
}

// redeem uses a ticket up.
func (t *tickets) redeem(word string, now time.Time) (token.Claims, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.open[word]
	delete(t.open, word)
	if !ok || now.After(k.expires) {
		return token.Claims{}, problem.New(problem.Unauthentic, "the ticket is unknown, used or older than %s; get another from POST /api/v1/tickets", ticketLife)
	}
	return k.claims, nil
}
