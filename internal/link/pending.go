package link

// Pending is how many bytes wait on a lane for their write. Who sends much at
// once, and can wait, waits while this is high.
func (c *Conn) Pending(lane int) int {
	if lane < 0 || lane >= lanes {
		return 0
	}
	l := &c.lanes[lane]
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending)
}
