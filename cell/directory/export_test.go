package directory

// Kept is how many users a cache holds.
func (c *Cache) Kept() int {
	c.users.mu.Lock()
	defer c.users.mu.Unlock()
	return len(c.users.kept)
}
