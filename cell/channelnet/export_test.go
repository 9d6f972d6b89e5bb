package channelnet

// SetVersion makes these peers speak as another release.
func (p *Peers) SetVersion(v uint32) { p.version = v }
