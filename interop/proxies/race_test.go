//go:build race

package proxies

const raceDetector = true
