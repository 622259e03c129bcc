//go:build !race

package proxies

const raceDetector = false
