// Package badinput holds the test of what `parley cell` says, and of what it leaves
// behind, when its config is right but one engine is not: `make test-engines` runs
// it.
package badinput
