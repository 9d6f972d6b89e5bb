// Package pace sends at an even rate.
package pace

import (
	"context"
	"time"
)

// Run calls send at every tick with how many are due, for a time. A tick that
// comes late brings what is due since: the rate holds, and who is slow pays.
func Run(ctx context.Context, tick time.Duration, perS int, d time.Duration, send func(n int) error) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	start, sent := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		past := time.Since(start)
		if past >= d {
			return nil
		}
		if due := int(past.Seconds()*float64(perS)) - sent; due > 0 {
			if err := send(due); err != nil {
				return err
			}
			sent += due
		}
	}
}
