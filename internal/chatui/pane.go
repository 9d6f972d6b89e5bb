package chatui

import (
	"slices"
	"sort"

	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// paneMax bounds the items of a pane: those farthest from what is read go first.
const paneMax = 2000

// item is a message, or a notice, with the rows it was last drawn as.
type item struct {
	order  topology.Seq // a notice has that of what was last before it
	msg    chat.Message // without an id: a notice
	notice string
	bad    bool // the notice is of something that went wrong
	brief  bool // one row only: a reply, told of in its channel
	whole  bool // all rows, however many

	rows  []string
	width int
}

// pane is a list of items of which some rows are seen, counted from the end, so
// that neither what comes in front nor what comes behind moves what is read.
type pane struct {
	draw     func(it *item, width int) []string
	items    []*item
	seen     map[topology.MessageID]*item
	width    int
	height   int
	up       int // rows below the last one seen
	selected *item

	older   bool // there are more in front
	cut     bool // there are more behind: the end is to be loaded again
	loading bool
	stalled bool // loading failed; scrolling tries again
}

func newPane(draw func(*item, int) []string) *pane {
	return &pane{draw: draw, seen: map[topology.MessageID]*item{}}
}

// put takes a message in where it belongs; one that is there gives its number of
// replies.
func (p *pane) put(it *item) {
	id := it.msg.MessageID
	if was := p.seen[id]; id != "" && was != nil {
		p.replied(id, it.msg.ReplyCount)
		return
	}
	at := sort.Search(len(p.items), func(i int) bool { return p.items[i].order > it.order })
	if at == len(p.items) && p.cut {
		return
	}
	if at == len(p.items) && p.up > 0 {
		p.up += len(p.rows(it))
	}
	p.items = slices.Insert(p.items, at, it)
	if id != "" {
		p.seen[id] = it
	}
}

// note adds a notice at the end.
func (p *pane) note(text string, bad bool) {
	p.put(&item{order: p.last(), notice: text, bad: bad})
	p.dropFirst()
}

func (p *pane) last() topology.Seq {
	if len(p.items) == 0 {
		return 0
	}
	return p.items[len(p.items)-1].order
}

// replied says that a message has at least n replies.
func (p *pane) replied(id topology.MessageID, n uint64) {
	if it := p.seen[id]; it != nil && it.msg.ReplyCount < n {
		it.msg.ReplyCount, it.rows = n, nil
	}
}

// dropFirst keeps the bound where the pane grew at its end.
func (p *pane) dropFirst() {
	for len(p.items) > paneMax {
		p.forget(p.items[0])
		p.items = p.items[1:]
		p.older = true
	}
}

// dropLast keeps the bound where the pane grew in front.
func (p *pane) dropLast() {
	for len(p.items) > paneMax {
		end := p.items[len(p.items)-1]
		p.up = max(0, p.up-len(p.rows(end)))
		p.forget(end)
		p.items = p.items[:len(p.items)-1]
		p.cut = true
	}
}

func (p *pane) forget(it *item) {
	delete(p.seen, it.msg.MessageID)
	if p.selected == it {
		p.selected = nil
	}
}

// newest is the newest message, replies that are told of excepted.
func (p *pane) newest() (chat.Message, bool) {
	for _, it := range slices.Backward(p.items) {
		if it.msg.MessageID != "" && !it.brief {
			return it.msg, true
		}
	}
	return chat.Message{}, false
}

// oldest is the first message there is.
func (p *pane) oldest() topology.MessageID {
	for _, it := range p.items {
		if it.msg.MessageID != "" && !it.brief {
			return it.msg.MessageID
		}
	}
	return ""
}

// rows are an item's, wrapped once for each width.
func (p *pane) rows(it *item) []string {
	if it.rows == nil || it.width != p.width {
		it.rows, it.width = p.draw(it, p.width), p.width
	}
	return it.rows
}

// view is the rows to be seen, and whether they begin with the pane's first.
func (p *pane) view() (rows []string, top bool) {
	for {
		below := 0
		i := len(p.items)
		rows = rows[:0]
		for i > 0 && below < p.up+p.height {
			i--
			for _, r := range slices.Backward(p.gutter(p.items[i])) {
				if below++; below > p.up && below <= p.up+p.height {
					rows = append(rows, r)
				}
			}
		}
		if i > 0 || below >= p.up+p.height || p.up == 0 {
			slices.Reverse(rows)
			return rows, i == 0 && below <= p.up+p.height
		}
		p.up = max(0, below-p.height) // scrolled beyond the first
	}
}

func (p *pane) top() bool {
	_, top := p.view()
	return top
}

// gutter is an item's rows with the mark of the selected one before them.
func (p *pane) gutter(it *item) []string {
	if it != p.selected {
		return p.rows(it)
	}
	rows := slices.Clone(p.rows(it))
	for n, r := range rows {
		rows[n] = "▌" + r[1:] // each row begins with a space for it
	}
	return rows
}

func (p *pane) scroll(rows int) {
	p.up = max(0, p.up+rows)
	p.stalled = false
}

// choose moves the selection by a message up (-1) or down (1), and the view with it.
func (p *pane) choose(step int) {
	p.stalled = false
	at := slices.Index(p.items, p.selected)
	if p.selected == nil {
		if step > 0 {
			return
		}
		at = len(p.items)
	}
	for at += step; at >= 0 && at < len(p.items); at += step {
		if p.items[at].msg.MessageID == "" {
			continue
		}
		p.selected = p.items[at]
		below := 0
		for _, it := range p.items[at+1:] {
			below += len(p.rows(it))
		}
		p.up = min(max(p.up, below+len(p.rows(p.selected))-p.height), below)
		return
	}
	if step > 0 {
		p.selected, p.up = nil, 0
	}
}
