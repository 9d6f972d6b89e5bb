//go:build race

package channelnet_test

// patience is how many times its budget a post may take: here everything is slow.
const patience = 8
