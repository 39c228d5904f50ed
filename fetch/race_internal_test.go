//go:build race

package fetch

func init() { raceDetectorOn = true }
