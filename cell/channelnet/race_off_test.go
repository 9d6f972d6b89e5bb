//go:build !race

package channelnet_test

// patience is how many times its budget a post may take: tests share their machine,
// and the drills hold the budgets.
const patience = 2
