package placement

// The weights of the score. The fullest dimension counts most, because it is the
// one that will hurt; the mean keeps the others in view; the count of workspaces
// spreads them where no capacity is known. Together they are 1.
const (
	weightFullest = 0.6
	weightMean    = 0.3
	weightSpread  = 0.1
	// spreadHalf is the count of workspaces at which the spread term is a half.
	spreadHalf = 100
	// silentCost is more than all the rest can make up for.
	silentCost = 2
)

// score is 1 for an empty cell, lower for a fuller one, by the cell as it would
// be with the workspace in it.
func score(r Request, c Cell) float64 {
	fullest, sum, limited := 0.0, 0.0, 0
	for _, d := range dimensions(r, c) {
		if d.size <= 0 {
			continue
		}
		limited++
		sum += d.share()
		fullest = max(fullest, d.share())
	}
	mean := 0.0
	if limited > 0 {
		mean = sum / float64(limited)
	}
	n := float64(c.Workspaces)
	total := 1 - weightFullest*fullest - weightMean*mean - weightSpread*n/(n+spreadHalf)
	if c.Silent {
		total -= silentCost
	}
	return total
}
