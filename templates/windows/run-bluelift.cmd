@echo off
rem Bluelift without an image: safe mode, the recovery environment, a rescue VM. Options are handed on; see README.txt.
setlocal
title Bluelift
set "BLUELIFT_SELF=%~f0"
set "BLUELIFT_OPTIONS=%*"
if not exist "%~dp0payload\payload.exe" goto incomplete
rem In Windows PE (the MiniNT key) there is nobody but the system; elsewhere only an administrator may read S-1-5-19.
if not exist "%SystemRoot%\System32\reg.exe" goto run
"%SystemRoot%\System32\reg.exe" query HKLM\SYSTEM\CurrentControlSet\Control\MiniNT >nul 2>nul
if not errorlevel 1 goto run
"%SystemRoot%\System32\reg.exe" query HKU\S-1-5-19 >nul 2>nul
if errorlevel 1 goto elevate

:run
rem In safe mode the Windows that runs is the broken one; on a rescue VM it is not.
if not "%~1"=="" goto start
set "BLUELIFT_OPTIONS=--all-disks"
if not "%SAFEBOOT_OPTION%"=="" set "BLUELIFT_OPTIONS=--all-disks --this-windows"

:start
"%~dp0payload\payload.exe" %BLUELIFT_OPTIONS%
set "BLUELIFT_CODE=%ERRORLEVEL%"
if not "%~1"=="" goto end
echo.
pause
goto end

:elevate
set "BLUELIFT_CODE=2"
if not exist "%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe" goto ask
if not "%~1"=="" goto ask
"%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe" -NoProfile -Command "Start-Process -FilePath $env:BLUELIFT_SELF -Verb RunAs"
if errorlevel 1 goto ask
set "BLUELIFT_CODE=0"
goto end

:ask
echo Bluelift needs an administrator: right-click run-bluelift.cmd and choose "Run as administrator".
pause
goto end

:incomplete
set "BLUELIFT_CODE=2"
echo payload\payload.exe is missing. Unpack the whole archive, then run run-bluelift.cmd from there.
pause

:end
endlocal & exit /b %BLUELIFT_CODE%
